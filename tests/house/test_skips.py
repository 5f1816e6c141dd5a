"""A test that does not run proves nothing: a skip must be written down, with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
KINDS = """
    import pytest

    def test_runs():
        pass

    def test_inside():
        pytest.skip("no server")

    @pytest.mark.skip(reason="no server")
    def test_marked():
        pass

    @pytest.mark.xfail(reason="no server")
    def test_hopeless():
        raise AssertionError
"""


def run(pytester: pytest.Pytester, skips: str, **files: str) -> pytest.RunResult:
    """Run the given test files under the project's own conftest and this list of skips."""
    pytester.makeconftest(CONFTEST.read_text().replace('pytest_plugins = ["pytester"]', ""))
    (pytester.path / "skips.txt").write_text(skips)
    pytester.makepyfile(**files)
    return pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist")


def test_every_kind_of_unlisted_skip_fails(pytester: pytest.Pytester) -> None:
    result = run(pytester, "", test_kinds=KINDS)
    result.assert_outcomes(passed=1, failed=2, errors=1)  # a mark skips before the test begins
    result.stdout.fnmatch_lines(["*does not list it: test_kinds.py::test_inside | no server*"])


def test_a_module_that_skips_itself_fails(pytester: pytest.Pytester) -> None:
    result = run(pytester, "", test_module="import pytest\npytest.importorskip('nothing_of_this_name')")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*does not list it: test_module.py | could not import*"])


def test_a_listed_skip_passes_and_is_shown(pytester: pytest.Pytester) -> None:
    result = run(pytester, "test_kinds.py::* | no server", test_kinds=KINDS)
    result.assert_outcomes(passed=1, skipped=2, xfailed=1)
    result.stdout.fnmatch_lines(
        ["*skipped, as tests/skips.txt allows*", "*test_kinds.py::test_marked: no server*"]
    )


def test_a_listed_test_may_not_skip_for_another_reason(pytester: pytest.Pytester) -> None:
    result = run(pytester, "test_kinds.py::* | no network", test_kinds=KINDS)
    result.assert_outcomes(passed=1, failed=2, errors=1)  # a mark skips before the test begins


def test_a_line_without_a_reason_is_refused(pytester: pytest.Pytester) -> None:
    result = run(pytester, "test_kinds.py::test_inside", test_kinds=KINDS)
    assert result.ret != 0
