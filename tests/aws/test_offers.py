"""What nodes cost, count against, and where they can be had: lists and zones by moto, prices and quotas as AWS's
documentation shows its answers.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict
from decimal import Decimal

import boto3
import pytest
from botocore.stub import Stubber
from moto import mock_aws

from portal.clouds.aws import offers, prices, quotas, types
from portal.clouds.aws.options import AwsOptions
from portal.clouds.aws.region import Region
from portal.clouds.aws.session import Session, portal_session
from portal.clouds.market import Limit, Market

ROLE = "arn:aws:iam::123456789012:role/Coxswain"


@pytest.fixture
def at(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "portal")
    portal_session.cache_clear()
    with mock_aws():
        yield Region(Session(AwsOptions(role=ROLE, region="us-east-2"), "an-id"), "us-east-2")
    portal_session.cache_clear()


@contextmanager
def saying(at, service, region, *answers):
    """AWS says these, to these questions and in this order; to any other it is an error."""
    client = at.session.client(service, region)
    with Stubber(client) as stub:
        for method, answer, asked in answers:
            if isinstance(answer, str):
                stub.add_client_error(method, answer, expected_params=asked)
            else:
                stub.add_response(method, answer, asked)
        yield
        stub.assert_no_pending_responses()


def product(name, dollars, **more):
    terms = {"a": {"priceDimensions": {"b": {"unit": "Hrs", "pricePerUnit": {"USD": dollars}, **more}}}}
    return json.dumps({"product": {"attributes": {"instanceType": name}}, "terms": {"OnDemand": terms}})


def asked_for(name, *, of=None):
    known = prices._PLAIN | {"regionCode": "us-east-2"} | ({"instanceType": name} if name else {})
    return {
        "ServiceCode": "AmazonEC2",
        "Filters": [{"Type": "TERM_MATCH", "Field": key, "Value": value} for key, value in known.items()],
    }


def priced(name, *products):
    return "get_products", {"FormatVersion": "aws_v1", "PriceList": list(products)}, asked_for(name)


def test_a_region_lists_what_a_node_can_be_smallest_first_with_its_price(at):
    with saying(
        at, "pricing", "us-east-1", priced("", product("c5n.18xlarge", "3.888"), product("t3.micro", "0.0104"))
    ):
        found = types.ask(at)
    by_name = {one.name: one for one in found}
    assert len(found) > 500
    assert found == sorted(found, key=lambda one: one.cores)
    efa = by_name["c5n.18xlarge"]
    assert (efa.cores, efa.vcpus, efa.memory_gib, efa.accelerated_network) == (36, 72, 192, True)
    assert (efa.family, efa.hourly_price, efa.architecture) == ("c5n", Decimal("3.888"), "x86_64")
    graviton = by_name["c7g.xlarge"]
    assert (graviton.cores, graviton.vcpus, graviton.architecture) == (4, 4, "arm64")  # cores are not half of vCPUs
    assert graviton.hourly_price is None
    assert not any(one.family.startswith("mac") for one in found)


def test_types_are_listed_without_prices_where_nobody_may_ask_for_them(at, caplog):
    with saying(at, "pricing", "us-east-1", ("get_products", "AccessDeniedException", asked_for(""))):
        found = types.ask(at)
    assert len(found) > 500
    assert not any(one.hourly_price for one in found)
    assert "prices in us-east-2" in caplog.text


def test_a_price_is_read_whatever_else_a_product_has():
    free = product("t3.micro", "0.0000000000")
    odd = product("t3.micro", "12", unit="Quantity")
    assert prices._read(json.loads(free)) == prices._read(json.loads(odd)) == prices._read({}) == {}
    assert prices._read(json.loads(product("t3.micro", "0.0104000000"))) == {"t3.micro": Decimal("0.0104")}


def test_zones_are_those_of_the_region_itself(at):
    assert [zone.name for zone in offers.zones(at)] == ["us-east-2a", "us-east-2b", "us-east-2c"]


@pytest.mark.parametrize(
    ("name", "on_demand", "spot"),
    [
        ("c7i.large", "L-1216C47A", "L-34B43A08"),
        ("hpc7a.96xlarge", "L-F7808C92", ""),
        ("p5.48xlarge", "L-417A185B", "L-7212CCBC"),
        ("gr6.4xlarge", "L-DB2E81BA", "L-3819A6DF"),
        ("trn1.2xlarge", "L-2C3B7624", "L-6B0D517C"),
        ("u7i-12tb.224xlarge", "L-43DA4232", ""),
        ("is4gen.large", "L-1216C47A", "L-34B43A08"),
        ("inf2.xlarge", "L-1945791B", "L-B5D1601B"),
    ],
)
def test_each_family_counts_against_its_own_quota(name, on_demand, spot):
    found = quotas.class_of(name)
    assert (found.on_demand, found.spot) == (on_demand, spot)


def limit(value, code="L-1216C47A"):
    answer = value if isinstance(value, str) else {"Quota": {"Value": float(value)}}
    return "get_service_quota", answer, {"ServiceCode": "ec2", "QuotaCode": code}


def run(kind, count):
    image = boto3.client("ec2", "us-east-2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    boto3.client("ec2", "us-east-2").run_instances(ImageId=image, InstanceType=kind, MinCount=count, MaxCount=count)


def test_an_offer_says_price_and_quota_of_all_nodes(at):
    with (
        saying(at, "pricing", "us-east-1", priced("c5n.18xlarge", product("c5n.18xlarge", "3.888"))),
        saying(at, "service-quotas", "us-east-2", limit(256)),
    ):
        found = offers.offer(at, "c5n.18xlarge", 3, zone="", spot=False)
    assert (found.hourly_price, found.impossible) == (Decimal("11.664"), "")
    (quota,) = found.quotas
    assert (quota.asked, quota.left, quota.is_enough) == (216, 256, True)


def test_what_others_run_in_the_account_is_not_left(at):
    run("c5.large", 3)
    run("p3.2xlarge", 1)  # of another class
    with (
        saying(at, "pricing", "us-east-1", priced("c5.xlarge", product("c5.xlarge", "0.17"))),
        saying(at, "service-quotas", "us-east-2", limit(8)),
    ):
        (quota,) = offers.offer(at, "c5.xlarge", 2, zone="", spot=False).quotas
    assert (quota.left, quota.is_enough) == (2, False)


def test_an_offer_says_what_aws_does_not_tell(at):
    with (
        saying(at, "pricing", "us-east-1", ("get_products", "ThrottlingException", asked_for("c5.large"))),
        saying(at, "service-quotas", "us-east-2", limit("AccessDeniedException")),
    ):
        found = offers.offer(at, "c5.large", 1, zone="", spot=False)
    assert found.hourly_price is None
    assert found.warnings == (
        "The cloud does not say what it costs.",
        "The cloud does not say how many vCPUs the account may have.",
    )


def test_what_cannot_be_had_is_said_with_where_it_can(at):
    assert offers.offer(at, "c9.huge", 1, zone="", spot=False).impossible == "c9.huge cannot be had in us-east-2."
    said = offers.offer(at, "c5.large", 1, zone="us-east-2z", spot=False).impossible
    assert said.startswith("c5.large cannot be had in us-east-2z. Those that have it: us-east-2a, ")
    said = offers.offer(at, "hpc7a.96xlarge", 1, zone="", spot=True).impossible
    assert said == "hpc7a.96xlarge cannot be had as a spot node."


def test_all_that_a_region_has_to_say_is_kept_at_once(at, monkeypatch):
    run("c5.large", 2)
    monkeypatch.setattr(quotas, "_most", lambda at, code: 8 if code == "L-1216C47A" else None)
    kind = types.describe(at, "c5.large")
    kept = json.loads(json.dumps(asdict(offers.market(at))))
    known = Market(**kept | {"limits": [Limit(**one) for one in kept["limits"]]})
    assert len(known.limits) == 2 * len(quotas.CLASSES) - 2, "two classes have no spot instances"
    running = quotas.running(at)
    assert running == {"c5.large": [2, 0]}
    found = known.offer(kind, 3, zone="us-east-2b", running=running, vcpus={"c5.large": 2})
    assert (found.impossible, found.quotas[0].asked, found.quotas[0].left) == ("", 6, 4)
    assert "us-east-2z" in known.offer(kind, 1, zone="us-east-2z", running={}, vcpus={}).impossible
    spot = known.offer(kind, 2, spot=True, running=running, vcpus={"c5.large": 2})
    assert spot.hourly_price == 2 * max(map(Decimal, known.spot_prices["c5.large"].values()))
