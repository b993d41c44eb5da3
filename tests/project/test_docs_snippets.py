"""Every piece of code in the README and the documentation is code that works.

A ``python`` block is compiled and executed. A comment on the line before it can change that:

``<!-- snippet: no-run (reason) -->``
    it is compiled only
``<!-- snippet: continue -->``
    it goes on where the block before it ended, with the same names
``<!-- snippet: tests of inbox -->``
    it is a file of tests, which are called; what comes before it is the module ``inbox``

A ``console`` block's ``trioloop`` and ``hypercorn`` commands use only options that exist.
"""

import functools
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"""
    (?:^[ ]*<!--[ ]snippet:[ ](?P<mark>.*?)[ ]-->[ ]*\n(?:[ ]*\n)?)?
    ^(?P<indent>[ ]*)(?P<fence>`{3,})(?P<language>python|console)[ ]*\n
    (?P<code>.*?)
    ^(?P=indent)(?P=fence)[ ]*$
    """,
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
TESTS_OF = "tests of "
MARK = re.compile(rf"continue|no-run \(.+\)|{TESTS_OF}\w+")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    file: str
    line: int  # of its first line of code
    language: str
    mark: str
    code: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    def compile(self):
        lines_above = "\n" * (self.line - 1)  # so that a traceback names the line of the page
        return compile(lines_above + self.code, self.file, "exec", dont_inherit=True)


def blocks_in(file: str, text: str) -> Iterator[Block]:
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("code")) + 1
        code = textwrap.dedent(found["code"])
        yield Block(file, line, found["language"], found["mark"] or "", code)


def read_pages() -> list[Block]:
    pages = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    return [
        block
        for page in pages
        if page.exists() and "_build" not in page.parts
        for block in blocks_in(page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8"))
    ]


def chain_of(block: Block, blocks: list[Block]) -> list[Block]:
    """The block, after those that it continues or tests."""
    chain = [block]
    earlier = [other for other in blocks if other.file == block.file and other.line < block.line]
    while chain[0].mark == "continue" or chain[0].mark.startswith(TESTS_OF):
        runnable = [other for other in earlier if not other.mark.startswith(("no-run", TESTS_OF))]
        assert runnable, f"{block} continues nothing"
        chain.insert(0, runnable[-1])
        earlier = [other for other in earlier if other.line < chain[0].line]
    return chain


def execute(chain: list[Block], monkeypatch) -> None:
    module = make_module("snippet", monkeypatch)
    for block in chain:
        if not block.mark.startswith(TESTS_OF):
            exec(block.compile(), vars(module))
            continue
        monkeypatch.setitem(sys.modules, block.mark.removeprefix(TESTS_OF), module)
        tests = vars(make_module("snippet_tests", monkeypatch))
        exec(block.compile(), tests)
        for name in [name for name in tests if name.startswith("test_")]:
            tests[name]()


def make_module(name: str, monkeypatch) -> ModuleType:
    """A real module: dataclasses and type hints look it up by name."""
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    return module


BLOCKS = read_pages()
PYTHON = [block for block in BLOCKS if block.language == "python"]
CONSOLE = [block for block in BLOCKS if block.language == "console"]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_mark_is_one_that_is_known(block):
    assert not block.mark or MARK.fullmatch(block.mark)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_python_block_works(block, monkeypatch):
    block.compile()
    if not block.mark.startswith("no-run"):
        execute(chain_of(block, PYTHON), monkeypatch)


# ── Commands ─────────────────────────────────────────────────────────────────────────────────────


def commands_in(code: str) -> Iterator[list[str]]:
    """The words of each command after a ``$``, split at pipes and the like."""
    for line in code.replace("\\\n", " ").splitlines():
        if not line.startswith("$ "):
            continue
        lexer = shlex.shlex(line[2:], posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for word in lexer:
            if set(word) <= set("();<>|&"):
                yield command
                command = []
            else:
                command.append(word)
        yield command


def options_in(command: list[str]) -> tuple[tuple[str, ...], list[str]] | None:
    """Whom to ask for help, and the options to look for; None where nobody is asked."""
    words = [Path(word).name if "/" in word else word for word in command]
    while words and re.fullmatch(r"\w+=.*", words[0]):
        del words[0]
    if words[:2] in (["python", "-m"], ["python3", "-m"]):
        del words[:2]
    if not words or words[0] not in ("trioloop", "hypercorn"):
        return None
    program = tuple(words[: 2 if words[0] == "trioloop" and words[1:2] == ["serve"] else 1])
    return program, [word.partition("=")[0] for word in words[len(program) :] if word[0] == "-"]


@functools.cache
def help_of(program: tuple[str, ...]) -> str:
    run = [sys.executable, "-m", *program, "--help"]
    return subprocess.run(run, capture_output=True, text=True, check=True, timeout=60).stdout


def unknown_options(code: str) -> list[str]:
    asked = [found for command in commands_in(code) if (found := options_in(command))]
    return [
        f"{' '.join(program)} {option}"
        for program, options in asked
        for option in options
        if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", help_of(program))
    ]


@pytest.mark.parametrize("block", CONSOLE, ids=str)
def test_a_console_block_uses_options_that_exist(block):
    assert unknown_options(block.code) == []


def test_the_readme_has_the_command_that_ci_runs():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    found = re.search(r"^test_command='(.+)'$", script, re.MULTILINE)
    assert found is not None
    assert found[1] in (ROOT / "README.md").read_text(encoding="utf-8")


# ── The check itself ─────────────────────────────────────────────────────────────────────────────

PAGE = """\
```python
x = 1
```
<!-- snippet: continue -->
```python
assert x == 1
```
- in a list:

  <!-- snippet: no-run (needs a server) -->

  ```python
  1 / 0
  ```
"""


def test_blocks_are_found_with_their_marks_and_lines():
    blocks = list(blocks_in("page.md", PAGE))
    assert [(str(block), block.mark) for block in blocks] == [
        ("page.md:2", ""),
        ("page.md:6", "continue"),
        ("page.md:13", "no-run (needs a server)"),
    ]
    assert blocks[2].code == "1 / 0\n"


def test_a_block_that_continues_has_the_names_of_the_one_before(monkeypatch):
    blocks = list(blocks_in("page.md", PAGE))
    assert chain_of(blocks[1], blocks) == blocks[:2]
    execute(blocks[:2], monkeypatch)


def test_a_file_of_tests_imports_what_comes_before_it_and_is_run(monkeypatch):
    text = """\
```python
x = 1
```
<!-- snippet: tests of page -->
```python
from page import x
def test_x():
    assert x == 2
```
"""
    blocks = list(blocks_in("page.md", text))
    with pytest.raises(AssertionError) as caught:
        execute(chain_of(blocks[1], blocks), monkeypatch)
    assert caught.traceback[-1].lineno + 1 == 8


def test_a_failing_block_fails_at_its_line(monkeypatch):
    block = list(blocks_in("page.md", PAGE))[2]
    with pytest.raises(ZeroDivisionError) as caught:
        execute([block], monkeypatch)
    assert caught.traceback[-1].lineno + 1 == 13


def test_an_option_that_does_not_exist_is_found():
    code = "$ X=1 hypercorn -k trio --no-such-option a:b | cat\noutput --other\n"
    assert unknown_options(code) == ["hypercorn --no-such-option"]
