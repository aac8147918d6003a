"""The report in a real browser: nothing fails to load, nothing runs, nothing hangs over the edge of a phone.

Needs Chromium; without it these tests are skipped, unless OFFON_REQUIRE_BROWSER=1 says that it must be there.
"""

import os
import re
import shutil
import subprocess

import pytest
from PIL import Image

from offon import reporting
from tests.reporting import synthetic
from tests.reporting.test_standalone import PAGES

pytestmark = pytest.mark.slow

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=3000",
    "--enable-logging=stderr",
]
PHONE = 390


@pytest.fixture(autouse=True)
def browser():
    if BROWSER is None:
        if os.environ.get("OFFON_REQUIRE_BROWSER") == "1":
            pytest.fail("OFFON_REQUIRE_BROWSER=1 and no Chromium on PATH")
        pytest.skip("no Chromium on PATH: the report was not opened in a browser")


def browse(path, profile, *flags, width=1200, height=1600):
    """(page after loading, console messages): everything the browser complained about is a console message."""
    command = [
        BROWSER,
        *FLAGS,
        f"--user-data-dir={profile}",
        f"--window-size={width},{height}",
        *flags,
        f"file://{path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def without_policy(path, target, script=""):
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text())
    target.write_text(html.replace("</body>", f"{script}</body>"))
    return target


@pytest.mark.parametrize("name", ["measured_run", "interrupted_run", "empty_run"])
def test_the_report_opens_without_a_complaint(name, request, tmp_path):
    path = reporting.write(request.getfixturevalue(name))
    dom, console = browse(path, tmp_path / "profile", "--dump-dom")
    assert console == [] and "</main>" in dom


def test_a_load_that_fails_would_be_seen(whole_run, tmp_path):
    path = tmp_path / "broken.html"
    path.write_text(
        reporting.write(whole_run).read_text().replace("</main>", '<img src="https://offon.invalid/x.png"></main>')
    )
    _, console = browse(path, tmp_path / "profile", "--dump-dom")
    assert console and "Content Security Policy" in console[0]


@pytest.mark.fault("F54")
def test_a_planted_script_does_not_run_even_without_the_policy(whole_run, tmp_path):
    path = without_policy(reporting.write(whole_run), tmp_path / "report.html")
    dom, _ = browse(path, tmp_path / "profile", "--dump-dom")
    assert "<title>owned" not in dom and "<title>planted · offon report" in dom
    (tmp_path / "control.html").write_text(f"<title>planted</title>{synthetic.ATTACK}")
    dom, _ = browse(tmp_path / "control.html", tmp_path / "profile", "--dump-dom")
    assert "<title>owned" in dom


WIDTH = "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script>"


def widths(path, tmp_path, width):
    """(of what is on the page, of the window)"""
    dom, _ = browse(
        without_policy(path, tmp_path / "wide.html", WIDTH), tmp_path / "profile", "--dump-dom", width=width
    )
    return tuple(map(int, re.search(r"<title>(\d+) of (\d+)", dom).groups()))


@pytest.mark.parametrize("width", [PHONE, 820, 970, 1200])
def test_nothing_hangs_over_the_edge(measured_run, tmp_path, width):
    content, window = widths(reporting.write(measured_run), tmp_path, width)
    assert content <= window


@pytest.mark.parametrize("kind", ["comparison", "diagnosis"])
def test_a_page_of_its_own_opens_without_a_complaint_and_fits_a_phone(kind, tmp_path):
    write, made = PAGES[kind]
    entry = made()
    for part in (entry, *entry.get("families", {}).values()):
        part["calls"] = dict.fromkeys(("gained", "kept", "lost", "never", "undecided"), 111)  # the longest words
    path = write(entry, tmp_path / "page.html")
    _, console = browse(path, tmp_path / "profile", "--dump-dom")
    content, window = widths(path, tmp_path, PHONE)
    assert console == [] and content <= window


@pytest.mark.parametrize("width", [PHONE, 1200])
def test_a_picture_of_the_report_is_not_blank(whole_run, tmp_path, width):
    picture = tmp_path / "report.png"
    browse(reporting.write(whole_run), tmp_path / "profile", f"--screenshot={picture}", width=width)
    image = Image.open(picture).convert("RGB")
    colours = image.getcolors(maxcolors=1 << 24)
    paper = max(colours)[0] / (image.width * image.height)
    assert image.width == width and len(colours) > 100 and 0.3 < paper < 0.98
