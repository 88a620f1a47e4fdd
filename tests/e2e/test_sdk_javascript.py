"""The official JavaScript SDK, unmodified, through node's own test runner.

The tests themselves are in `js/*.test.mjs`; each is presented here under its own name.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "js"
#: The runner's own limit, below pytest's.
RUN_S = 150
NAMES = [
    (file.name, name)
    for file in sorted(FOLDER.glob("*.test.mjs"))
    for name in re.findall(r"^test\('([^']+)'", file.read_text(), re.MULTILINE)
]


@pytest.fixture(scope="module")
def results(server, sprite, home, node, is_real):
    """Runs all of them once; what became of each, by name."""
    sdk = os.environ.get("SPRITES_JS_SDK")
    assert sdk and Path(sdk).exists(), "script/e2e installs the SDK"
    environment = os.environ | {
        "SPRITES_API_URL": server.url,
        "SPRITE_TOKEN": server.token,
        "E2E_SPRITE": sprite.name,
        "E2E_HOME": home,
        "E2E_REAL": "1" if is_real else "0",
    }
    reporter = f"--test-reporter={FOLDER / 'reporter.mjs'}"
    files = [str(FOLDER / file) for file in sorted({file for file, _ in NAMES})]
    done = subprocess.run(
        [node, "--test", reporter, "--test-timeout=60000", *files],
        cwd=FOLDER,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    stderr = done.stderr + "".join(line.get("stderr", "") for line in lines)
    return {line["name"]: line for line in lines if "name" in line}, stderr


@pytest.mark.timeout(RUN_S + 30)
@pytest.mark.parametrize(("file", "name"), NAMES, ids=[f"{f.split('.')[0]}: {n}" for f, n in NAMES])
def test_javascript(results, file, name):
    by_name, stderr = results
    assert name in by_name, f"{file} did not get to it:\n{stderr[-3000:]}"
    assert by_name[name]["passed"], by_name[name]["detail"]
