"""Reports opened in real headless Chromium, for tests: nothing may complain, and nothing but the file may be asked for."""

import shutil

import pytest

from synthetic_previews import written

sync_playwright = pytest.importorskip(
    "playwright.sync_api", reason="the report was NOT tried in a browser: playwright is not installed"
).sync_playwright
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
IN_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="the report was NOT tried in a browser: Chromium is not installed"
    ),
]
HOSTILE = "<img src=x onerror=alert(1)>"
TASKS = {
    2: ("de-en", HOSTILE),
    3: ("digits 0-3", HOSTILE, "digits 7-9"),
    4: ("code", "maths", HOSTILE, "law"),
    5: ("code", "maths", HOSTILE, "law", "safety"),
}


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Write a report and open it; at the end, nothing may have complained, and nothing but the file was asked for."""
    complaints, requests, contexts = [], [], []

    def open_report(*arguments, width=1280, scheme="light", path=None, hash="", **more):
        path = path or written(tmp_path / "report.html", *arguments, **more)
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )  # so that nothing is still scrolling when the next key is pressed
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"page error: {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: requests.append(request.url.split("#")[0]))
        page.goto(path.as_uri() + hash)
        page.uri = path.as_uri()
        return page

    yield open_report
    uris = {page.uri for context in contexts for page in context.pages}
    for context in contexts:
        context.close()
    assert complaints == []
    assert set(requests) == uris


def cells(page, method):
    """The weightings of a method's map."""
    return page.locator(f"#maps figure[data-method='{method}'] [data-row]")


def in_view(page):
    """Title of the panel, and the weights it shows."""
    return page.locator("#panel-title").inner_text(), page.locator("#panel td.weight").all_inner_texts()


def set_slider(page, selector, value):
    """Move a slider as a hand does: its value, and the event."""
    page.locator(selector).evaluate(
        "(node, value) => { node.value = value; node.dispatchEvent(new Event('input', { bubbles: true })); }",
        str(value),
    )
