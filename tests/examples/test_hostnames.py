import pytest

from tests.examples.programs import program

hostnames = program("hostnames/hostnames.py")
HOSTFILE = "c1-n0:2\nc1-n1:2\n"


def test_a_hostfile_is_read_as_the_launcher_reads_it():
    assert hostnames.expected("# nodes\n\nc1-n0:2\nc1-n1  # one core\nc1-n0:1\n") == {"c1-n0": 3, "c1-n1": 1}


def test_a_whole_cluster_has_no_faults():
    assert hostnames.faults({"c1-n0": 2, "c1-n1": 2}, HOSTFILE, 2, 4) == []


def test_without_a_portal_it_only_counts():
    assert hostnames.faults({"laptop": 3}, "", None, None) == []


@pytest.mark.parametrize(
    ("counted", "said"),
    [
        ({"c1-n0": 4}, "1 nodes answered, of 2"),
        ({"c1-n0": 2, "c1-n1": 1}, "3 ranks ran, on 4 cores"),
        ({"c1-n0": 1, "c1-n1": 3}, "c1-n1 ran 3 ranks, not 2"),
        ({"c1-n0": 2, "c9-n1": 2}, "c1-n1 ran 0 ranks, and the hostfile gives it 2"),
        ({"c1-n0": 2, "c9-n1": 2}, "c9-n1 ran 2 ranks, and the hostfile gives it 0"),
    ],
)
def test_a_fault_is_said(counted, said):
    assert said in hostnames.faults(counted, HOSTFILE, 2, 4)
