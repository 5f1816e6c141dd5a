"""Buying from the stand-in with the real client: once, whole, within the caps, and without showing the key."""

from __future__ import annotations

import io
import json
import logging
import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vendor import KEY, Vendor

import researchkit
from researchkit.data.historical import open_vendor
from researchkit.data.line import Patience
from researchkit.data.orders import Order, order_of
from researchkit.data.purchase import Purchases
from researchkit.errors import (
    AccessDenied,
    IntegrityError,
    SettingsError,
    SignoffError,
    SpendRefused,
    VendorError,
    WorkspaceError,
)
from researchkit.security.policy import grant
from researchkit.security.secret import Secret, pieces_of_text
from researchkit.workspace import Workspace

pytestmark = pytest.mark.xdist_group("vendor")
TABLE = "XNAS.ITCH/ohlcv-1d"
QUICK = Patience(attempts=4, sleep=lambda seconds: None)


@pytest.fixture(autouse=True)
def clean(vendor: Vendor) -> Iterator[None]:
    vendor.clear()
    yield
    vendor.clear()


def workspace(root: Path, vendor: Vendor, **caps: Any) -> Workspace:
    ws = researchkit.open(root, overrides={"vendor_url": vendor.url(**caps)})
    grant(ws.root / "policy", "quant", action="read", resource="*")
    if not ws.secrets.names():
        ws.secrets.put("vendor", Secret(KEY))
    return ws


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory, vendor: Vendor) -> Path:
    """A workspace whose databases and secrets are there, to be copied."""
    root = tmp_path_factory.mktemp("shape") / "ws"
    made = workspace(root, vendor)
    made.registry.rows("SELECT 1")
    made.ledger.head()
    return root


@pytest.fixture
def ws(tmp_path: Path, shape: Path, vendor: Vendor) -> Workspace:
    shutil.copytree(shape, tmp_path / "ws")
    return workspace(tmp_path / "ws", vendor)


def purchases(ws: Workspace, *, signed: bool = True, seconds: float = 3.0, **more: Any) -> Purchases:
    line = open_vendor(ws.settings, lambda: ws.secrets, patience=QUICK, seconds=(seconds, seconds))
    given = {"settle": 0.0, "sleep": lambda pause: None} | more
    return Purchases(
        vendor=line, raw=ws._raw, lake=ws._lake, registry=ws.registry, door=ws.door,
        folder=ws.root / "tmp" / "purchases", signed=lambda resource: signed, **given,
    )  # fmt: skip


def bars(start: str = "2024-01", end: str = "2024-02", symbols: str = "AAPL") -> Order:
    return order_of(TABLE, symbols, start, end)


def owned(ws: Workspace, table: str = TABLE) -> int:
    return int(ws.lake.scan(table).collect().height)


def test_a_purchase_ends_in_the_lake_and_is_made_once(ws, vendor):
    shop = purchases(ws)
    (done,) = shop.buy(bars(), context=ws.context)
    assert (done.state, len(vendor.jobs)) == ("done", 1)
    assert owned(ws) == done.records == 41  # the sessions of January and February
    assert shop.buy(bars(), context=ws.context) == []
    assert "61 sessions, 41 already owned" in str(
        shop.estimate(bars("2024-01", "2024-03"), context=ws.context)
    )
    assert len(vendor.jobs) == 1
    (rest,) = shop.buy(bars("2024-02", "2024-03"), context=ws.context)
    assert (str(rest.order), len(vendor.jobs)) == (f"{TABLE} AAPL 2024-03-01 to 2024-04-01", 2)
    assert owned(ws) == 61
    names = [o.name for o in ws.raw.objects(TABLE)]
    assert sorted(n for n in names if n.endswith(".zst")) == sorted(
        f"{done.order.tag}.xnas-itch-{span}.ohlcv-1d.dbn.zst"
        for span in ("20240101-20240229", "20240301-20240331")
    )
    assert [line.kind for line in ws.ledger.entries(kind="delivered")] == ["delivered"] * 2
    assert not list((ws.root / "tmp" / "purchases").rglob("*.zst"))
    assert all(finding.ok for finding in ws.raw.verify())


def test_other_symbols_of_the_same_days_take_nothing_back(ws, vendor):
    shop = purchases(ws)
    shop.buy(bars("2024-01", "2024-01"), context=ws.context)
    shop.buy(bars("2024-01", "2024-01", "MSFT"), context=ws.context)
    assert ws.lake.scan(TABLE).collect()["symbol"].value_counts().sort("symbol").rows() == [
        ("AAPL", 21),
        ("MSFT", 21),
    ]


def test_the_caps_hold(tmp_path, shape, vendor):
    vendor.prices = {"ohlcv-1d": 1e7}  # 0.56 USD a bar
    try:
        shutil.copytree(shape, tmp_path / "ws")
        shutil.copytree(shape, tmp_path / "closed")
        ws = workspace(tmp_path / "ws", vendor, call=5, month=30)
        shop = purchases(ws)
        with pytest.raises(SpendRefused, match=r"above 5\.00 USD somebody has to agree; .* say --yes 11\.76"):
            shop.buy(bars("2024-01", "2024-01"), context=ws.context)
        with pytest.raises(SpendRefused, match=r"only 11\.75 USD were agreed to"):
            shop.buy(bars("2024-01", "2024-01"), context=ws.context, agreed="11.75")
        assert not vendor.jobs
        shop.buy(bars("2024-01", "2024-01"), context=ws.context, agreed="11.76")
        with pytest.raises(SpendRefused, match=r"11\.76 of 30\.00 USD are spent this month"):
            shop.buy(bars("2024-01", "2024-03"), context=ws.context, agreed="1000")
        assert len(vendor.jobs) == 1
        closed = workspace(tmp_path / "closed", vendor, call=0, month=0)
        with pytest.raises(SpendRefused, match=r"0\.00 of 0\.00 USD are spent this month"):
            purchases(closed).buy(bars(), context=closed.context, agreed="1000")
    finally:
        vendor.prices = {}


def test_without_a_signature_there_is_one_sample_a_table(ws, vendor):
    shop = purchases(ws, signed=False)
    (done,) = shop.buy(bars("2024-01", "2024-03"), context=ws.context)
    assert done.order.sample
    assert str(done.order).endswith("2024-01-01 to 2024-01-31 (sample)")
    with pytest.raises(SignoffError, match=r"only its sample is ordered, .* no sign-off in this version"):
        shop.buy(bars("2024-02", "2024-02"), context=ws.context)
    with pytest.raises(SignoffError, match=r"only its sample is ordered, .* no sign-off in this version"):
        purchases(ws, signed=False).estimate(bars("2024-03", "2024-03"), context=ws.context)
    denied = ws.root / "policy" / "grants.json"
    grants = json.loads(denied.read_text())
    grants["roles"]["data-engineer"] = [g for g in grants["roles"]["data-engineer"] if g["action"] != "order"]
    denied.write_text(json.dumps(grants))
    before = len(vendor.seen)
    with pytest.raises(AccessDenied, match="may not order"):
        shop.estimate(bars(), context=ws.context)
    assert len(vendor.seen) == before  # policy is asked before the vendor is


def test_an_answer_that_is_lost_is_looked_for(ws, vendor):
    vendor.next("lose", "submit_job")
    (done,) = purchases(ws).buy(bars(), context=ws.context)
    assert (done.state, len(vendor.jobs)) == ("done", 1)
    vendor.next("page", "submit_job")
    (done,) = purchases(ws).buy(bars("2024-03", "2024-03"), context=ws.context)
    assert (done.state, len(vendor.jobs)) == ("done", 2)
    vendor.next("500", "submit_job", times=2)
    (done,) = purchases(ws).buy(bars("2024-04", "2024-04"), context=ws.context)
    assert (done.state, len(vendor.jobs)) == ("done", 3)


def test_an_order_of_unknown_fate_is_sent_again_only_when_it_is_not_listed(ws, vendor):
    slept: list[float] = []
    shop = purchases(
        ws, settle=5.0, sleep=slept.append, clock=iter(range(10**18 * 2, 2 * 10**18 + 10**12, 10**9)).__next__
    )
    vendor.next("502", "submit_job")
    (done,) = shop.buy(bars(), context=ws.context)
    looked = [s.path.rpartition(".")[2] for s in vendor.seen if "jobs" in s.path or "submit" in s.path]
    assert done.state == "done"
    assert looked.index("submit_job") > 0  # the list is searched before anything is sent
    assert looked.count("submit_job") == 2
    assert slept


def test_a_job_that_another_program_ordered_is_not_bought_again(ws, vendor):
    order = bars()
    other = open_vendor(ws.settings, lambda: ws.secrets)
    other.submit(order)
    (done,) = purchases(ws).buy(order, context=ws.context)
    assert len(vendor.jobs) == 1
    assert done.words == "the account had it in its list"


def test_a_refusal_costs_nothing_and_says_what_to_do(ws, vendor):
    for status, words in (
        (402, "has no money of this account left"),
        (403, "licence"),
        (422, "does not accept"),
    ):
        vendor.next(str(status), "submit_job")
        with pytest.raises(VendorError, match=words):
            purchases(ws).buy(bars(), context=ws.context)
    assert not vendor.jobs
    assert [p.state for p in purchases(ws).book.all()] == ["refused"] * 3


@pytest.mark.attack("a vendor who sends other bytes", tier="embedded")
def test_files_that_are_not_what_was_promised_are_not_kept(ws, vendor):
    for number, kind in enumerate(("fewer", "damaged", "other", "empty"), start=1):
        vendor.next(kind, "submit_job")
        month = f"2024-0{number}"
        with pytest.raises(IntegrityError):
            purchases(ws).buy(bars(month, month), context=ws.context)
    assert ws.raw.objects() == []
    assert [p.state for p in purchases(ws).book.open()] == ["ready"] * 4


def test_a_download_that_is_cut_goes_on_where_it_was(ws, vendor):
    for at in (0, 1, 100):
        vendor.next("cut", "download", at=at)
    (done,) = purchases(ws).buy(bars(), context=ws.context)
    ranges = [s.span for s in vendor.requests("download") if s.span]
    assert done.state == "done"
    assert "bytes=1-" in ranges[0]
    assert len({s.path for s in vendor.requests("download")}) == len(purchases(ws).book.files(done))


def test_a_job_that_never_ends_is_left_to_the_next_start(ws, vendor):
    vendor.next("never", "submit_job")
    with pytest.raises(VendorError, match="it is paid for: go on with `researchkit data orders --resume"):
        purchases(ws, wait=0.05).buy(bars(), context=ws.context)
    for job in vendor.jobs.values():
        job.spoilt = None
    (done,) = purchases(ws).resume(context=ws.context)
    assert (done.state, len(vendor.jobs)) == ("done", 1)


@pytest.mark.attack("a list of files on another host", tier="embedded")
def test_another_host_is_never_asked(ws, vendor):
    vendor.next("redirect", "get_cost")
    with pytest.raises(VendorError, match="no redirect is followed"):
        purchases(ws).buy(bars(), context=ws.context)
    vendor.next("elsewhere", "list_files")
    with pytest.raises(VendorError, match="no other host is asked"):
        purchases(ws).buy(bars(), context=ws.context)
    assert all("127.0.0.2" not in s.path for s in vendor.seen)


@pytest.mark.attack("a host that says it is the vendor", tier="embedded")
def test_a_certificate_of_another_authority_is_final(tmp_path, vendor):
    from tls import Authority

    stranger = Authority(tmp_path / "stranger")
    url = vendor.url().replace(str(vendor.ca), str(stranger.ca))
    ws = researchkit.open(tmp_path / "ws", overrides={"vendor_url": url})
    ws.secrets.put("vendor", Secret(KEY))
    with pytest.raises(VendorError, match="is not trusted"):
        purchases(ws).estimate(bars(), context=ws.context)
    gone = researchkit.open(tmp_path / "ws", overrides={"vendor_url": url.replace("ca.pem", "no.pem")})
    with pytest.raises(SettingsError, match="the file that \\?ca= names is not there"):
        purchases(gone).estimate(bars(), context=gone.context)
    none = researchkit.open(tmp_path / "ws")
    with pytest.raises(SettingsError, match="there is no vendor"):
        purchases(none).estimate(bars(), context=none.context)


@pytest.mark.attack("an environment that leads elsewhere", tier="embedded")
def test_environment_and_netrc_have_no_say(ws, vendor, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login thief password thief\n")
    for name, value in {"HTTPS_PROXY": "http://127.0.0.2:9", "REQUESTS_CA_BUNDLE": "/dev/null",
                        "NETRC": str(tmp_path / ".netrc"), "DATABENTO_API_KEY": "thief"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert purchases(ws).estimate(bars(), context=ws.context).cost > 0
    assert all(s.known for s in vendor.seen)


@pytest.mark.attack("the vendor's key in a message", tier="embedded")
def test_the_key_shows_nowhere(tmp_path, shape, vendor, caplog):
    """Not in logs, exceptions, tracebacks with locals, representations, or any file but the sealed one."""
    caplog.set_level(logging.DEBUG)
    shutil.copytree(shape, tmp_path / "ws")
    ws = workspace(tmp_path / "ws", vendor)
    shop = purchases(ws)
    seen = io.StringIO()
    for fault, where in (
        ("401", "get_cost"),
        ("422", "submit_job"),
        ("drop", "get_cost"),
        ("cut", "download"),
        ("redirect", "list_files"),
    ):
        vendor.next(fault, where, times=9)
        with pytest.raises(VendorError) as caught:
            shop.buy(bars(), context=ws.context)
        vendor.faults.clear()
        error: BaseException | None = caught.value
        frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        seen.write("".join(frames.format()))
        while error is not None:
            seen.write(repr(error) + repr(vars(error)))
            error = error.__context__
    seen.write(caplog.text + repr(shop) + repr(vars(shop)) + repr(vars(shop._desk.vendor.line)))
    files = b"".join(p.read_bytes() for p in ws.root.rglob("*") if p.is_file())
    for piece in pieces_of_text(KEY):
        assert piece not in seen.getvalue().encode()
        assert piece not in files
    assert all(KEY not in s.path for s in vendor.seen)


def test_two_of_the_same_order_are_one_purchase(ws, vendor):
    import threading

    found: list[Any] = []
    shops = [purchases(workspace(ws.root, vendor)) for _ in range(2)]
    for shop in shops:
        assert not shop.book.open()  # the databases are open, which is not for threads to do

    def buy(shop: Purchases) -> None:
        try:
            found.extend(shop.buy(bars(), context=ws.context))
        except (WorkspaceError, VendorError) as e:
            found.append(e)

    threads = [threading.Thread(target=buy, args=(shop,)) for shop in shops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(vendor.jobs) == 1
    assert [p.state for p in purchases(ws).book.all()] == ["done"]


def test_the_command_says_the_estimate_buys_the_sample_and_knows_what_is_owned(tmp_path, shape, vendor):
    from typer.testing import CliRunner

    from researchkit.commands.data import data
    from researchkit.commands.order import data_ingest  # noqa: F401  the command itself

    root = tmp_path / "ws"
    shutil.copytree(shape, root)
    (root / "researchkit.toml").write_text(f'vendor_url = "{vendor.url()}"\n')
    shell, where = CliRunner(), ["--workspace", str(root), "--json"]
    order = [
        "--dataset",
        "XNAS.ITCH",
        "--schema",
        "ohlcv-1d",
        "--symbols",
        "AAPL,MSFT",
        "--from",
        "2024-01-02",
        "--to",
        "2024-03",
    ]

    def run(*words: str) -> Any:
        done = shell.invoke(data, [*words, *where])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout), done.stderr

    quoted, said = run("ingest", *order, "--estimate")
    (part,) = quoted["missing"]
    assert part["order"] == f"{TABLE} AAPL, MSFT 2024-01-02 to 2024-02-01 (sample)"
    assert quoted["currency"] == "USD"
    assert all(quoted[name] == part[name] > 0 for name in ("cost", "bytes", "records"))
    assert "of 500.00 this month" in said
    assert "21 sessions · sample only: sign-off is not in this version" in said
    assert not vendor.jobs
    ((row,), _) = run("ingest", *order)
    assert (row["state"], row["records"]) == ("done", 42)
    assert run("ingest", *order)[0] == []
    assert [r["state"] for r in run("orders")[0]] == ["done"]
    assert [r["symbol"] for r in run("coverage")[0]] == ["AAPL", "MSFT"]
    assert len(run("orders", row["order"])[0]["files"]) == 5
    assert run("orders", "--resume")[0] == []
    assert len(vendor.jobs) == 1


def test_the_same_notes_with_two_orders_are_in_nobodys_way(ws, vendor):
    """Notes of a few bytes are alike from order to order, and an object belongs to one table."""
    shop = purchases(ws)
    for schema in ("ohlcv-1d", "ohlcv-1h"):
        (done,) = shop.buy(
            order_of(f"XNAS.ITCH/{schema}", "AAPL", "2024-01-02", "2024-01-03"), context=ws.context
        )
        assert done.state == "done"
        kept = {row["name"]: row["raw_sha256"] for row in shop.book.files(done)}
        notes = json.loads(ws.raw.get(kept["condition.json"]))
        assert notes["job"] == done.job
        assert {name for name, raw in kept.items() if raw == kept["condition.json"]} == set(notes["notes"])


def test_a_list_that_was_wrong_at_first_is_read_again(ws, vendor):
    vendor.next("size", "list_files", at=5, times=2)
    shop = purchases(ws)
    with pytest.raises(VendorError, match="sends fewer bytes"):
        shop.buy(bars(), context=ws.context)
    (done,) = shop.resume(context=ws.context)
    assert (done.state, len(vendor.jobs)) == ("done", 1)


def lie(monkeypatch: pytest.MonkeyPatch, vendor: Vendor, answer: Any) -> None:
    """Have the vendor deliver another file than the one that was ordered."""
    market, honest = vendor.market, type(vendor.market).file
    monkeypatch.setattr(type(market), "file", lambda self, *asked: honest(self, *answer(*asked)))


def test_what_was_never_sent_is_quoted_again_before_it_is_bought(ws, vendor, monkeypatch):
    monkeypatch.setattr(vendor, "prices", {"ohlcv-1d": 1e6})  # 0.056 USD a bar
    shop = purchases(ws)
    for month in ("2024-01", "2024-02"):
        vendor.next("429", "submit_job", times=9)
        with pytest.raises(VendorError, match="too many requests"):
            shop.buy(bars(month, month), context=ws.context, agreed="2")
        vendor.faults.clear()
    vendor.prices = {"ohlcv-1d": 1e8}
    (said,) = shop.unsent(shop.book.open()[0].id, context=ws.context)
    assert str(said).startswith("estimate 117.60 USD, with 1.12 spent of 500.00 this month")
    assert "1 asked for before and never sent, at today's price" in str(said)
    closed = purchases(workspace(ws.root, vendor, call=0, month=0))
    for again in (
        lambda: closed.resume(context=ws.context),
        lambda: shop.resume(context=ws.context, agreed="229"),
    ):
        with pytest.raises(VendorError, match="nothing was bought"):
            again()
    with pytest.raises(SpendRefused, match=r"above 50\.00 USD somebody has to agree"):
        shop.buy(bars("2024-01", "2024-01"), context=ws.context)
    assert not vendor.jobs
    (done,) = shop.buy(bars("2024-01", "2024-01"), context=ws.context, agreed="117.60")
    assert (done.state, done.cost_micros, len(vendor.jobs)) == ("done", 117_600_000, 1)
    shop.close(shop.book.open()[0].id, "too dear", context=ws.context)
    assert shop._spending.this_month() == 117_600_000


def test_one_empty_list_after_a_kill_is_no_reason_to_send_again(ws, vendor, monkeypatch):
    from researchkit.data import fulfilment

    class Kill(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Kill

    slept: list[float] = []
    shop = purchases(ws, settle=180.0, sleep=slept.append)
    vendor.next("lose", "submit_job")
    with monkeypatch.context() as patched:
        patched.setattr(fulfilment, "_watch", killed)
        with pytest.raises(Kill):
            shop.buy(bars(), context=ws.context)
    (lost,) = shop.book.open()
    day = 86_400 * 10**9
    shop.book.registry.write(("UPDATE orders SET changed_ns = changed_ns - :d", [{"d": day}]))  # long ago
    vendor.next("nothing", "list_jobs", times=3)
    (done,) = shop.resume(context=ws.context)
    assert (lost.state, done.state, len(vendor.jobs)) == ("sending", "done", 1)
    assert sum(slept) < 180


@pytest.mark.attack("a faultless file for another question", tier="embedded")
@pytest.mark.parametrize(
    ("lied", "words"),
    [
        (lambda d, s, part, *rest: (d, s, ["MSFT"], *rest), "holds MSFT, rule: AAPL as was ordered"),
        (lambda d, s, part, k, a, b: (d, s, part, k, a + 182 * 86_400 * 10**9, b + 182 * 86_400 * 10**9),
         r"holds 2024-07-\d\d to .*, rule: 2024-01-08 to 2024-01-13 as was ordered"),
    ],
)  # fmt: skip
def test_a_faultless_file_for_another_question_is_not_owned(ws, vendor, monkeypatch, lied, words):
    lie(monkeypatch, vendor, lied)
    shop = purchases(ws)
    with pytest.raises(IntegrityError, match=words):
        shop.buy(bars("2024-01-08", "2024-01-13"), context=ws.context)
    assert ws.raw.objects() == []
    assert shop.coverage().is_empty()


@pytest.mark.attack("a job dearer than its estimate", tier="embedded")
def test_a_job_dearer_than_its_estimate_is_loud_and_one_bad_order_is_nobody_elses(ws, vendor, monkeypatch):
    honest = vendor.submit

    def dearer(*asked: Any) -> Any:
        told = honest(*asked)
        list(vendor.jobs.values())[-1].cost = 99.0
        return told

    shop = purchases(ws)
    vendor.next("other", "submit_job")
    with pytest.raises(IntegrityError):
        shop.buy(bars("2024-01", "2024-01"), context=ws.context)
    monkeypatch.setattr(vendor, "submit", dearer)
    with pytest.raises(
        VendorError, match=r"1 of 2 orders did not go on: order \w+: .* as was ordered"
    ) as caught:
        shop.buy(bars("2024-01", "2024-02"), context=ws.context)
    (done,) = caught.value.done
    assert (done.state, str(done.order)) == ("done", f"{TABLE} AAPL 2024-02-01 to 2024-03-01")
    assert done.words.startswith("dearer than estimated: job ")
    assert [e.body["cost_micros"] for e in ws.ledger.entries(kind="overcharged")] == [99_000_000]
    assert 99_000_000 < shop._spending.this_month() < 99_100_000


def test_a_sample_does_not_move_and_notes_that_nobody_can_read_hold_nothing_up(ws, vendor, monkeypatch):
    import time

    made = vendor._made
    monkeypatch.setattr(vendor, "_made", lambda job: made(job) | {"condition.json": b"[" * 100_000})
    off = [0]
    shop = purchases(ws, signed=False, clock=lambda: time.time_ns() - off[0])
    (first,) = shop.buy(bars("2024-01-02", "2024-01-04"), context=ws.context)
    assert (first.state, "is not JSON that can be read" in first.words) == ("done", True)
    off[0] = 3_600 * 10**9  # the clock is put back by an hour
    (second,) = shop.buy(bars("2024-01-30", "2024-02-20"), context=ws.context)
    assert str(second.order).endswith("2024-01-30 to 2024-02-01 (sample)")
    with pytest.raises(SignoffError, match="2024-01-02 to 2024-02-01"):
        shop.buy(bars("2024-02-10", "2024-03-20"), context=ws.context)


def test_several_orders_have_one_limit_and_rows_under_another_name_are_told(ws, vendor, monkeypatch):
    shop = purchases(ws)
    shop.buy(order_of("GLBX.MDP3/trades", "ES.FUT", "2024-01-03", "2024-01-04"), context=ws.context)
    said = str(
        shop.estimate(order_of("GLBX.MDP3/trades", "ESH4", "2024-01-03", "2024-01-04"), context=ws.context)
    )
    assert "1 session · the lake has rows of ESH4 of 2024-01 already, from elsewhere" in said
    monkeypatch.setattr(vendor, "prices", {"ohlcv-1d": 1e6})
    orders = [bars(month, month) for month in ("2024-02", "2024-01", "2024-02")]
    with pytest.raises(SpendRefused, match=r"2\.30 USD for .* and 2 more: only 2\.00 USD were agreed to"):
        shop.buy_all(orders, context=ws.context, agreed="2")
    assert len(vendor.jobs) == 1
    assert [p.state for p in shop.buy_all(orders, context=ws.context, agreed="2.30")] == ["done"] * 2


@pytest.mark.attack("an answer without an end", tier="embedded")
def test_an_answer_that_only_drips_has_an_end(vendor):
    import threading
    import time
    from types import SimpleNamespace

    from researchkit.data.line import Line, Refusal, read_all
    from researchkit.settings import address

    line = Line(address("vendor_url", vendor.url()), lambda: Secret(KEY), seconds=(0.1, 0.05))
    pause = threading.Event()
    drip = SimpleNamespace(
        raw=SimpleNamespace(read1=lambda amount, **_: pause.wait(0.02) or b" "), close=pause.set
    )
    began = time.monotonic()
    with pytest.raises(Refusal, match=r"is not done answering after 0 s \(asking\)"):
        read_all(line, "asking", drip)
    assert time.monotonic() - began < 5
