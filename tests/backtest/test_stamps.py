"""Times of another system: read to the nanosecond against the standard library, or refused by row."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit.backtest.stamps import instants
from researchkit.errors import SchemaError

MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2037, 12, 31))
ZONES = st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "UTC"])


@settings(max_examples=60, deadline=None)
@given(
    moments=st.lists(MOMENTS, min_size=1, max_size=5),
    minutes=st.integers(-14 * 60, 14 * 60),
    sign=st.sampled_from(["T", " "]),
)
def test_offsets_are_subtracted(moments, minutes, sign):
    there = [m.replace(tzinfo=timezone(timedelta(minutes=minutes))) for m in moments]
    found, days = instants(pl.Series([m.isoformat(sep=sign) for m in there]))
    assert (found.to_list(), days) == ([m.astimezone(UTC) for m in there], False)


@settings(max_examples=60, deadline=None)
@given(moment=MOMENTS, zone=ZONES)
def test_a_clock_on_a_wall_is_read_where_it_hangs_or_refused(moment, zone):
    """Against zoneinfo: an hour that exists twice or not at all is no instant."""
    moment = moment.replace(hour=max(moment.hour, 1))
    one, two = (moment.replace(tzinfo=ZoneInfo(zone), fold=fold) for fold in (0, 1))
    if one.utcoffset() != two.utcoffset():
        with pytest.raises(SchemaError, match=r"row 7: .* exists twice or not at all"):
            instants(pl.Series([str(moment)]), zone=zone, first=7)
        return
    found, days = instants(pl.Series([str(moment)]), zone=zone)
    assert (found[0], days) == (one.astimezone(UTC), False)


@pytest.mark.parametrize("when", ["2009-10-25 02:30", "2009-03-29 02:30"])
def test_the_hours_that_berlin_has_twice_and_never(when):
    with pytest.raises(SchemaError, match=r"row 2: .*Europe/Berlin"):
        instants(pl.Series(["2009-01-01 10:00", when]), zone="Europe/Berlin")


@settings(max_examples=40, deadline=None)
@given(
    bad=st.sampled_from(
        [
            "9.3.2009",
            "2009-13-01",
            "2009-02-29",
            "yesterday",
            "",
            "20090309",
            "2009-03-09T10:00Z",
            None,
            "1500-01-01",
        ]
    ),
    row=st.integers(0, 9),
)
def test_one_bad_row_is_named(bad, row):
    texts: list[str | None] = ["2009-03-09"] * 10
    texts[row] = bad
    named = row + 2 if not (bad == "2009-03-09T10:00Z" and row == 0) else 3  # the first row sets the form
    with pytest.raises(SchemaError, match=rf"^file: row {named}: "):
        instants(pl.Series(texts), "file", first=2)


def test_no_nanosecond_is_lost():
    found, _ = instants(pl.Series(["2009-03-09T10:00:00.123456789Z", "2009-03-09 10:00:00,5+00"]))
    assert (found.to_physical() % 10**9).to_list() == [123456789, 500000000]


def test_types_that_have_times_already_are_held_to_the_same_rule():
    naive = pl.Series([datetime(2009, 3, 9, 16)])
    with pytest.raises(SchemaError, match="says no zone"):
        instants(naive)
    assert instants(naive, zone="America/New_York")[0][0] == datetime(2009, 3, 9, 20, tzinfo=UTC)
    midnight, days = instants(pl.Series([datetime(2009, 3, 9)]).dt.replace_time_zone("America/New_York"))
    assert (midnight[0], days) == (
        datetime(2009, 3, 9, 4, tzinfo=UTC),
        False,
    )  # an instant, since it says where
    assert instants(pl.Series([datetime(2009, 3, 9)]))[1]
