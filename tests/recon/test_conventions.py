import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "conventions.md"


def test_every_block_of_the_page_runs():
    text = PAGE.read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))
    names: dict[str, object] = {}
    for block in blocks:
        line = text[: block.start(1)].count("\n")
        exec(compile("\n" * line + block[1], str(PAGE), "exec"), names)
    assert sum("assert" in block[1] for block in blocks) >= 9
