"""How a cloud configuration of AWS is connected with its account. These pages, and its own, show the external id."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_safe

from accounts.place import person
from portal.clouds.aws import policy
from portal.errors import PortalError
from portal.forms import refusals_in
from portal.secrets import CannotDecrypt
from workspaces import aws
from workspaces.awsforms import KeyForm, ManualForm
from workspaces.models import CloudConfig
from workspaces.views.configs import cloud_config_for

WAYS = {"stack": "CloudFormation quick start", "manual": "Manually", "key": "With an access key"}


def _aws_config(request: HttpRequest, uuid: UUID) -> CloudConfig:
    found = cloud_config_for(request, uuid)
    if found.kind != CloudConfig.Kind.AWS:
        raise Http404
    return found


@require_http_methods(["GET", "HEAD", "POST"])
@sensitive_post_parameters("key", "secret", "token")
@never_cache
@login_required
def connect(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """What its account's owner makes, in one of three ways; of one that is finished, what was to be made."""
    config = _aws_config(request, uuid)
    asked = request.POST if request.method == "POST" else request.GET
    way = next((one for one in WAYS if one == asked.get("way")), "manual" if config.is_finished else "stack")
    context: dict[str, Any] = {"config": config, "way": way, "ways": WAYS, "awaits": aws.awaits(config)}
    try:
        initial = aws.derived(config)
        if request.method == "POST" and not config.is_finished:
            work = {"stack": _wait, "manual": _by_hand, "key": _with_key}[way]
            if answer := work(request, config, context):
                return answer
        elif way == "manual":
            context["form"] = ManualForm(initial=initial)
        elif way == "key":
            context["form"] = KeyForm()
        context["setup"] = wanted = aws.setup(config, context.get("typed"))
        context["trust"] = policy.as_text(wanted.trust)
        context["policies"] = {name: policy.as_text(one) for name, one in wanted.policies.items()}
    except PortalError as error:
        context["trouble"] = error
    except CannotDecrypt:
        context["trouble"] = PortalError(
            "The external id of this configuration cannot be opened.", advice="Ask whoever runs this portal."
        )
    part = "workspaces/aws.html#live" if request.headers.get("HX-Target") == "aws-live" else ""
    return render(request, part or "workspaces/aws.html", context)


def _wait(request: HttpRequest, config: CloudConfig, _context: dict[str, Any]) -> HttpResponse:
    aws.wait_for(config, by=person(request))
    return redirect("connect-aws", config.uuid)


def _by_hand(request: HttpRequest, config: CloudConfig, context: dict[str, Any]) -> HttpResponse | None:
    """Looked at each time: what was valid a while ago may be so no more."""
    context["form"] = form = ManualForm(request.POST)
    if not form.is_valid():
        return None
    context["typed"] = options = form.cleaned_data
    found = aws.validate(config, options)
    context["found"], context["is_valid"] = aws.shown(config, found), aws.is_valid(found)
    if context["is_valid"] and "finish" in request.POST:
        with refusals_in(form):
            aws.finish(config, options, found, by=person(request))
            messages.success(request, f"{config.name} is finished.")
            return redirect(config)
    return None


@sensitive_variables("form", "given")
def _with_key(request: HttpRequest, config: CloudConfig, context: dict[str, Any]) -> HttpResponse | None:
    context["form"] = form = KeyForm(request.POST)
    if not form.is_valid():
        return None
    given = form.cleaned_data
    try:
        aws.make_with_key(config, **given, by=person(request))
    except PortalError as error:
        words = (error.message, error.evidence, error.advice)
        form.add_error(None, " ".join(word for word in words if word))
        return None
    messages.success(
        request, "Everything is made. AWS takes some seconds to know it everywhere; then this is finished."
    )
    return redirect(config)


@require_safe
@never_cache
@login_required
def template(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """For CloudFormation, with everything filled in."""
    config = _aws_config(request, uuid)
    try:
        wanted = aws.setup(config)
    except PortalError as error:
        messages.error(request, f"{error.message} {error.advice}")
        return redirect("connect-aws", uuid)
    disposition = f'attachment; filename="{wanted.role.rpartition("/")[2]}.json"'
    return HttpResponse(wanted.template, content_type="application/json", headers={"Content-Disposition": disposition})
