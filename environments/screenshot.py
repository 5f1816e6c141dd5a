"""Take a picture of the dashboard: python environments/screenshot.py WORKSPACE OUT.png [PAGE]."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

SERVE = "import sys, researchkit; from researchkit.dashboard.app import serve; serve(researchkit.open(sys.argv[1]))"
ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]

READY = {
    "Verdict": "naive gate",
    "Performance": "largest drawdown",
    "Calibration": "out-of-fold",
    "Ledger": "the head is",
}


def picture(address: str, out: Path, page: str, size: tuple[int, int] = (1440, 900)) -> None:
    """Open the dashboard in headless Chromium, turn to a page, and take its picture."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("chromium is not installed: make system")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=ARGS)
        tab = browser.new_page(viewport={"width": size[0], "height": size[1]})
        tab.goto(address)
        tab.get_by_text("tier:").first.wait_for(timeout=60_000)
        if page == "Verdict":
            tab.get_by_text(READY[page]).first.wait_for(timeout=60_000)
            tab.locator("details.case summary").first.click()
        else:
            tab.locator(".bk-tab", has_text=page).first.click()
        if page in READY:
            tab.get_by_text(READY[page]).first.wait_for(timeout=60_000)
        tab.wait_for_timeout(2500)
        tab.screenshot(path=str(out), full_page=True)
        browser.close()


def main(workspace: str, out: str, page: str = "Verdict") -> None:
    """Serve a workspace just as long as its picture takes."""
    command = [sys.executable, "-c", SERVE, workspace]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        said = server.stdout.readline() if server.stdout else ""
        found = re.search(r"http://127\.0\.0\.1:\d+/\S+", said)
        if found is None:
            raise SystemExit(f"the dashboard did not start: {said.strip() or 'it said nothing'}")
        picture(found[0], Path(out), page)
    finally:
        server.terminate()
        server.wait(timeout=30)
    print(f"{out}: {Path(out).stat().st_size:,} bytes")


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
