"""Campaigns under contention and tampering: numbers are unique, registrations are joined, edits are found."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from researchkit.context import Context, Principal
from researchkit.errors import AccessDenied, IntegrityError
from researchkit.experiments.campaign import Gate
from researchkit.experiments.registration import Entrant, Registration, Sealed, read_registration
from researchkit.experiments.sealing import find_campaign, late, open_seal, register
from researchkit.experiments.warehouse import Warehouse
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install

TRIAL = {
    "job": "j", "title": "t", "principal": "quant7", "tier": "embedded", "status": "finished", "started_ns": 1,
    "parameters": "{}", "code": "{}", "environment": "{}", "process": "{}",
}  # fmt: skip


def _entrant(name, n):
    return Entrant(name, f"{n:064x}", "8c1d", code="c0" * 32, source="50" * 32)


def _registration(n):
    years = Sealed("ab" * 32, "DEMO/ohlcv-1d", 10, 20)
    return Registration(f"campaign {n}", (_entrant("honest", 2),), _entrant("baseline", 1), (years,), seed=n)


@pytest.fixture
def parts(tmp_path):
    warehouse = Warehouse(f"sqlite:///{tmp_path / 'warehouse.db'}")
    with warehouse.writing() as w:
        w.add("trials", [{"id": "7f3a", **TRIAL}], within={"id": "7f3a"})
        for n, name in enumerate(["baseline", "honest"], start=1):
            w.stream(f"{n:064x}", strategy=name, trial="7f3a", now=1)
    return {
        "warehouse": warehouse,
        "ledger": Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"),
        "context": Context(Principal("quant7", ("quant",))),
    }


def test_many_at_once_get_different_numbers_and_the_same_one_is_joined(parts):
    wanted = [_registration(n % 4) for n in range(12)]
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda r: register(r, **parts), wanted))
    numbers = {c.registration.name: c.number for c in made}
    assert sorted(numbers.values()) == [1, 2, 3, 4]
    assert len(parts["ledger"].entries(kind="registration")) == 4
    assert all(find_campaign(parts["warehouse"], c.id).number == c.number for c in made)


def test_what_is_registered_after_the_opening_is_late_under_any_name(parts):
    first, second = register(_registration(1), **parts), register(_registration(2), **parts)
    open_seal(first, **parts)
    open_seal(second, **parts)
    redelivered = Sealed("cd" * 32, "DEMO/ohlcv-1d", 19, 40)
    after = register(replace(_registration(3), sealed=(redelivered,)), **parts)
    later_years = register(replace(_registration(4), sealed=(replace(redelivered, start=20),)), **parts)
    assert [bool(late(c, ledger=parts["ledger"])) for c in (first, second, after, later_years)] == [
        False,
        False,
        True,
        False,
    ]


def test_an_opening_by_the_raw_zone_alone_covers_all_of_its_table(parts):
    first = register(_registration(1), **parts)
    body = {"subject": f"raw:{'ab' * 32}", "registration": first.id, "table": "DEMO/ohlcv-1d"}
    parts["ledger"].append("seal opened", body, parts["context"])
    after = register(
        replace(_registration(2), sealed=(Sealed("ee" * 32, "DEMO/ohlcv-1d", 10**18, 2 * 10**18),)), **parts
    )
    assert late(after, ledger=parts["ledger"])
    assert len(open_seal(first, **parts)) == 1
    assert len(parts["ledger"].entries(kind="seal opened")) == 1


def test_an_edited_registration_is_found(parts, tmp_path):
    campaign = register(_registration(1), **parts)
    with sqlite3.connect(tmp_path / "warehouse.db") as db:
        db.execute("UPDATE campaigns SET body = replace(body, '\"margin\":0.01', '\"margin\":0.001')")
    with pytest.raises(IntegrityError, match="its registration was changed"):
        find_campaign(parts["warehouse"], campaign.id)
    assert read_registration(campaign.registration.text, expected=campaign.id) == campaign.registration


def test_registering_and_opening_are_rights(parts, tmp_path):
    policy = Policy(install(tmp_path / "policy"))
    nobody = Context(Principal("guest", ()))
    gate = Gate(warehouse=parts["warehouse"], ledger=parts["ledger"], policy=policy, context=nobody)
    with pytest.raises(AccessDenied, match="'guest' may not register DEMO/ohlcv-1d"):
        gate.register(_registration(1))
    campaign = register(_registration(1), **parts)
    with pytest.raises(AccessDenied, match="'guest' may not open seal DEMO/ohlcv-1d"):
        gate.open_seal(campaign)
    mine = Gate(warehouse=parts["warehouse"], ledger=parts["ledger"], policy=policy, context=parts["context"])
    with pytest.raises(AccessDenied, match="only for a registered campaign"):
        mine.open_seal(replace(campaign, registration=_registration(9)))
    assert not parts["ledger"].entries(kind="seal opened")
