"""Takes a picture of a recording in Rerun's web viewer, for visual inspection. Not a test: it needs Playwright and
Chromium.

python -m tests.viewer.screenshot RECORDING OUT.png [BROWSER]
"""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Route, sync_playwright

from viewer.launch import serve

SOFTWARE_RENDERING = [
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
RENDERED_AFTER_MS = 90_000
SLOW_MACHINE_MS = 180_000


def stay_local(route: Route) -> None:
    """Let the page connect to this machine only, and report other attempts."""
    url = route.request.url
    if "://127.0.0.1:" in url or not url.startswith("http"):
        route.continue_()
    else:
        print(f"blocked {route.request.method} {url}")
        route.abort()


def main(recording: str, picture: str, browser: str = "/usr/bin/chromium") -> None:
    server, _, address = serve(Path(recording))
    try:
        with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
            context = playwright.chromium.launch_persistent_context(
                profile,
                executable_path=browser,
                args=SOFTWARE_RENDERING,
                chromium_sandbox=False,
                viewport={"width": 1600, "height": 1000},
            )
            context.route("**/*", stay_local)
            page = context.pages[0]
            page.goto(f"{address}&renderer=webgl")
            page.wait_for_timeout(RENDERED_AFTER_MS)
            page.screenshot(path=picture, timeout=SLOW_MACHINE_MS)
            context.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
