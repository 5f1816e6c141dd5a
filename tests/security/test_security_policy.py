"""Policy: what is decided, and that everything else is a refusal."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from researchkit.context import Principal, Resource
from researchkit.errors import AccessDenied
from researchkit.security.identity import os_user, read_roles
from researchkit.security.policy import Policy, grant, install

QUANT = Principal("quant7", ("quant",))
OWNER = Principal("ada", ("data-engineer", "quant"))
BARS = Resource("DEMO", "ohlcv-1d")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """The policy as it is installed."""
    return Policy(install(tmp_path_factory.mktemp("ws") / "policy"))


@pytest.mark.parametrize(
    ("who", "action", "resource", "facts", "rule"),
    [
        (QUANT, "read", BARS, {}, "quant/1"),
        (QUANT, "read", Resource("DEMO", "ohlcv-1d", symbols=("SPX",), start=0), {}, "quant/1"),
        (OWNER, "read", "DEMO/mbo", {"sample": True}, "quant/2"),
        (QUANT, "run", "job:demo", {}, "quant/3"),
        (QUANT, "open_seal", BARS, {"registered": True}, "quant/5"),
        (OWNER, "ingest", "XNAS.ITCH/ohlcv-1d", {}, "data-engineer/1"),
        (OWNER, "pin", BARS, {}, "data-engineer/2"),
    ],
)
def test_allowed(
    policy: Policy, who: Principal, action: str, resource: Resource | str, facts: dict[str, bool], rule: str
) -> None:
    assert policy.require(who, action, resource, **facts).rule == rule


@pytest.mark.parametrize(
    ("who", "action", "resource", "facts", "rule"),
    [
        (OWNER, "read", "DEMO/mbo", {}, "signoff"),
        (OWNER, "ingest", "DEMO/mbo", {}, "signoff"),
        (OWNER, "read", BARS, {"sealed": True}, "sealed"),
        (OWNER, "pin", BARS, {"sealed": True, "opened": False}, "sealed"),
        (OWNER, "open_seal", BARS, {}, "unregistered"),
        (OWNER, "open_seal", BARS, {"registered": False}, "unregistered"),
        (QUANT, "ingest", BARS, {}, "default"),
        (QUANT, "read", "DEMO/ohlcv-1m", {}, "default"),
        (QUANT, "read", "demo/ohlcv-1d", {}, "default"),
        (QUANT, "read", "*", {}, "default"),
        (Principal("eve"), "read", BARS, {}, "default"),
        (Principal("eve", ("*",)), "read", BARS, {}, "default"),
        (QUANT, "", BARS, {}, "default"),
    ],
)
def test_refused(
    policy: Policy, who: Principal, action: str, resource: Resource | str, facts: dict[str, bool], rule: str
) -> None:
    assert policy.decide(who, action, resource, **facts).rule == rule
    with pytest.raises(AccessDenied, match=f"'{who.name}' may not"):
        policy.require(who, action, resource, **facts)


@given(action=st.text(max_size=12), name=st.text(max_size=20), role=st.text(max_size=12))
def test_whatever_nobody_granted_is_refused(policy: Policy, action: str, name: str, role: str) -> None:
    if role not in ("quant", "data-engineer"):
        assert not policy.decide(Principal("eve", (role,)), action, name).allow


def test_the_message(policy: Policy) -> None:
    with pytest.raises(AccessDenied) as caught:
        policy.require(QUANT, "read", "DEMO/mbo")
    assert str(caught.value) == (
        "quant 'quant7' may not read DEMO/mbo: the full order book needs a legal sign-off (scope demo-mbo). "
        "Sign-off is not in this version: work with daily bars, DEMO/ohlcv-1d.\n"
        "  Explain: researchkit access explain quant7 read DEMO/mbo"
    )


def test_a_grant_does_not_stand_in_for_a_signature(tmp_path: Path) -> None:
    folder = install(tmp_path / "policy")
    grant(folder, "quant", action="read", resource="*")
    assert Policy(folder).decide(QUANT, "read", "DEMO/mbo").rule == "signoff"
    assert Policy(folder).decide(QUANT, "read", BARS, sealed=True).rule == "sealed"
    assert Policy(folder).decide(QUANT, "read", "ANY/thing").allow


def test_grants_at_the_same_moment_are_all_kept(tmp_path: Path) -> None:
    folder = install(tmp_path / "policy")
    tables = [f"T{i}/x" for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda t: grant(folder, "quant", action="read", resource=t), tables * 2))
    assert sorted(done) == [False] * 24 + [True] * 24
    held = json.loads((folder / "grants.json").read_text())["roles"]["quant"]
    assert sorted(g["resource"] for g in held if g["resource"] in tables) == sorted(tables)


def test_a_dataset_pattern_stops_at_its_slash(tmp_path: Path) -> None:
    folder = install(tmp_path / "policy")
    grant(folder, "quant", action="read", resource="XNAS/*")
    policy = Policy(folder)
    assert policy.decide(QUANT, "read", "XNAS/trades").allow
    assert not policy.decide(QUANT, "read", "XNAS.ITCH/trades").allow


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("access.rego", None),
        ("grants.json", None),
        ("access.rego", ""),
        ("access.rego", "package researchkit.access\ndecision := "),
        ("access.rego", "package researchkit.access\ndecision := true"),
        ("access.rego", 'package researchkit.access\ndecision := {"allow": true}'),
        (
            "access.rego",
            'package researchkit.access\ndecision := {"allow": "yes", "rule": "", "reason": "", "remedy": ""}',
        ),
        (
            "more.rego",
            'package researchkit.access\ndecision := {"allow": true, "rule": "", "reason": "", "remedy": ""}',
        ),
        ("grants.json", "{}"),
        ("grants.json", "[]"),
        ("grants.json", '{"roles": []}'),
        ("grants.json", '{"roles": {"quant": "all"}}'),
        ("grants.json", '{"roles": {"quant": [{"action": "read"}]}}'),
        ("grants.json", '{"roles": {"quant": [{"action": "read", "resource": "*", "sampel": true}]}}'),
        ("grants.json", '{"roles": {"quant": [{"action": "read", "resource": "*", "sample": "true"}]}}'),
        ("grants.json", '{"roles": {}, "scopes": {"DEMO/mbo": {}}}'),
        ("grants.json", "\udcff"),
    ],
)
def test_a_broken_policy_refuses(tmp_path: Path, name: str, content: str | None) -> None:
    folder = install(tmp_path / "policy")
    policy = Policy(folder)
    assert policy.decide(QUANT, "read", BARS).allow
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    decision = policy.decide(QUANT, "read", BARS)
    assert (decision.allow, decision.rule) == (False, "broken-policy")
    assert "the policy cannot be used: " in decision.reason
    assert "\n" not in decision.reason
    with pytest.raises(AccessDenied, match="the policy cannot be used"):
        policy.require(QUANT, "read", BARS)


def test_no_policy_at_all(tmp_path: Path) -> None:
    assert not Policy(tmp_path / "nowhere").decide(QUANT, "read", BARS).allow
    assert Policy(tmp_path / "nowhere").granted(QUANT) == []


def test_an_edit_counts_at_once_and_changes_the_identity(tmp_path: Path) -> None:
    folder = install(tmp_path / "policy")
    policy = Policy(folder)
    first = policy.require(QUANT, "read", BARS)
    (folder / "grants.json").write_text(json.dumps({"roles": {}}))
    second = policy.decide(QUANT, "read", BARS)
    assert not second.allow
    assert first.policy != second.policy


def test_install_keeps_what_is_there(tmp_path: Path) -> None:
    folder = install(tmp_path / "policy")
    (folder / "grants.json").write_text("mine")
    install(folder)
    assert (folder / "grants.json").read_text() == "mine"


def test_threads_get_their_own_answers(policy: Policy) -> None:
    tables = ["DEMO/ohlcv-1d", "DEMO/mbo"] * 40
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda t: policy.decide(QUANT, "read", t).allow, tables))
    assert answers == [True, False] * 40


def test_roles(tmp_path: Path) -> None:
    install(tmp_path / "policy")
    assert os_user(read_roles(tmp_path / "policy")).roles == ("data-engineer", "quant")
    assert read_roles(tmp_path / "nowhere") == {}
    (tmp_path / "policy" / "roles.json").write_text('{"users": {"*": [1]}}')
    with pytest.raises(AccessDenied, match=r"roles\.json is not of the form"):
        read_roles(tmp_path / "policy")
