"""The code of README.md and docs/ runs, block by block, as a reader would run it.

Each page runs in a separate process and folder, its blocks in order::

    python                                  executed in the namespace of the page
    python, after <!-- file: shop.py -->    written to that file, for later blocks and workers
    pycon                                   executed as at the prompt; the output is compared
    console                                 lines after "$ " run in a shell; the lines below, if any, are compared
    console, after <!-- fails -->           likewise, with an exit status that is not 0
    toml                                    parsed
    text                                    not used

A block after ``<!-- not run: reason -->`` is skipped. In comparisons ``...`` matches any text.
"""

from __future__ import annotations

import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

HOME = Path(__file__).parents[1]
PAGES = [HOME / "README.md", *sorted((HOME / "docs").rglob("*.md"))]
LANGUAGES = {"python", "pycon", "console", "toml", "text"}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PATIENCE_S = 100

FENCE = re.compile(
    r"(?:^<!-- (?P<word>file|not run|fails)(?:: (?P<argument>[^\n]+?))? -->\n+)?"
    r"^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@attrs.frozen
class Block:
    """One fenced block of a page.

    Attributes:
        language: After the backticks.
        code: Between them.
        line: Of the first line of the code, from 1.
        word: Of the comment before it: file, not run, fails; or None.
        argument: What follows the word in that comment.
    """

    language: str
    code: str
    line: int
    word: str | None
    argument: str | None


def blocks_of(text: str) -> Iterator[Block]:
    """Return the fenced blocks of a page, in order."""
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        yield Block(match["language"], match["code"], line, match["word"], match["argument"])


def run_page(page: Path) -> None:
    """Run the blocks of a page in the working folder."""
    program = types.ModuleType("program")
    sys.modules["program"] = program
    sys.path.insert(0, os.getcwd())
    for block in blocks_of(page.read_text("utf-8")):
        where = f"{page}:{block.line}"
        if block.word == "not run" or block.language == "text":
            continue
        if block.word == "file":
            write(Path(str(block.argument)), block.code)
        elif block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), vars(program))  # noqa: S102 - our page
        elif block.language == "pycon":
            prompt(block, vars(program), str(page))
        elif block.language == "console":
            for command, expected in commands_of(block.code):
                shell(command, expected, where, fails=block.word == "fails")
        elif block.language == "toml":
            tomllib.loads(block.code)
        else:
            sys.exit(f"{where}: a block of {block.language or 'no language'}; expected one of {sorted(LANGUAGES)}")


def write(file: Path, code: str) -> None:
    """Write a module of the page, so that the next import reads the new file."""
    file.write_text(code, "utf-8")
    # The bytecode of an old file with the same second and length would be used for the new one.
    shutil.rmtree("__pycache__", ignore_errors=True)
    importlib.invalidate_caches()
    sys.modules.pop(file.stem, None)


def prompt(block: Block, namespace: dict[str, object], page: str) -> None:
    """Execute a block as at the prompt."""
    examples = doctest.DocTestParser().get_examples(block.code, page)
    if not examples:
        sys.exit(f"{page}:{block.line}: a pycon block without >>>")
    collected: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    isolated_runtime = doctest.DocTest(examples, {}, page, page, block.line - 1, None)
    isolated_runtime.globs = namespace  # not a copy, so that later blocks have its names
    runner.run(isolated_runtime, out=collected.append, clear_globs=False)
    if collected:
        sys.exit("".join(collected))


def commands_of(code: str) -> Iterator[tuple[str, str]]:
    """Return the commands of a console block, each with the lines below it."""
    parts = re.split(r"^\$ ", code, flags=re.MULTILINE)
    for part in parts[1:]:
        command, _, expected = part.partition("\n")
        while command.endswith("\\"):
            more, _, expected = expected.partition("\n")
            command = command[:-1] + more
        yield command, expected


def shell(command: str, expected: str, where: str, *, fails: bool) -> None:
    """Run a command, and compare its exit status and its output."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.run(
        command,
        shell=True,
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
    )
    if (process.returncode != 0) is not fails:
        sys.exit(f"{where}: `{command}` ended with {process.returncode}:\n{process.stdout}")
    if expected.strip() and not doctest.OutputChecker().check_output(expected, process.stdout, FLAGS):
        sys.exit(f"{where}: `{command}` prints\n{process.stdout}\nexpected\n{expected}")


if __name__ == "__main__":
    run_page(Path(sys.argv[1]))
    sys.exit(0)


def title(page: Path) -> str:
    """Return the path of a page in the project."""
    return str(page.relative_to(HOME))


def has_code(page: Path) -> bool:
    """Whether a page has blocks to run."""
    return any(block.language != "text" for block in blocks_of(page.read_text("utf-8")))


each_page = pytest.mark.parametrize("page", PAGES, ids=title)


@pytest.mark.parametrize("page", [page for page in PAGES if has_code(page)], ids=title)
def test_the_code_of_the_page_runs(page: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    follow(page, tmp_path, environment)


def follow(page: Path, folder: Path, environment: dict[str, str]) -> None:
    """Run the blocks of a page in a separate process and folder."""
    # The folder is a project, so that no settings of an outer folder are used.
    (folder / "pyproject.toml").write_text('[project]\nname = "page"\nversion = "1"\n')
    process = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(page)],
        check=False,
        cwd=folder,
        env=environment | {"COLUMNS": "100", "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE_S,
    )
    assert process.returncode == 0, process.stderr or process.stdout


@each_page
def test_every_code_fence_is_run_or_has_a_reason_for_its_omission(page: Path) -> None:
    text = page.read_text("utf-8")
    blocks = list(blocks_of(text))
    fences = len(re.findall(r"^\s*```", text, re.MULTILINE))

    assert fences == 2 * len(blocks), "a fence is not closed, or not at the beginning of its line"
    assert {block.language for block in blocks} <= LANGUAGES
    assert all(block.argument for block in blocks if block.word in ("file", "not run"))


@each_page
def test_each_line_has_one_sentence(page: Path) -> None:
    prose = re.sub(r"`[^`]*`", "code", FENCE.sub("", page.read_text("utf-8")))
    more = re.compile(r"[.!?][)\"']?\s+[A-Z\[*(]")
    lines = [line for line in prose.splitlines() if not line.startswith(("|", "#", "<!--"))]

    assert [line for line in lines if more.search(re.sub(r"^\s*(\d+\.|[-*])\s", "", line))] == []


@each_page
def test_the_links_of_the_page_have_existing_targets(page: Path) -> None:
    text = FENCE.sub("", page.read_text("utf-8"))
    broken: list[str] = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path) if path else page
        if not linked.exists() or (anchor and anchor not in anchors_of(linked)):
            broken.append(target)

    assert broken == []


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_can_be_reached_from_the_index() -> None:
    index = HOME / "docs" / "index.md"
    visited: set[Path] = set()
    waiting = [index]
    while waiting:
        page = waiting.pop().resolve()
        if page in visited or page.suffix != ".md" or not page.is_file():
            continue
        visited.add(page)
        targets = re.findall(r"\]\(([^)\s:#]+)[^)]*\)", FENCE.sub("", page.read_text("utf-8")))
        waiting += [page.parent / target for target in targets]

    assert sorted({page.resolve() for page in PAGES} - visited - {(HOME / "README.md").resolve()}) == []


def test_the_pipeline_order_on_the_pages_is_that_of_the_code() -> None:
    from dexpy.execution.pipeline import DEFAULT_PIPELINE

    order = " > ".join([*(step.name for step in DEFAULT_PIPELINE), "perform"])
    lines = [
        (title(page), line.strip(" `"))
        for page in PAGES
        for line in page.read_text("utf-8").splitlines()
        if line.strip(" `").startswith("trace > ")
    ]

    assert "docs/explanation/architecture.md" in {page for page, _ in lines}
    assert {line for _, line in lines} == {order}


def test_the_tree_of_errors_on_the_page_is_that_of_the_code() -> None:
    from dexpy.foundation import errors

    page = (HOME / "docs" / "reference" / "errors.md").read_text("utf-8")
    tree = next(block.code for block in blocks_of(page) if block.code.startswith("DexpyError\n"))
    docstring = (errors.__doc__ or "").partition("::\n\n")[2].partition("\n\nMessages state")[0]

    assert tree.strip() == "\n".join(line[4:] for line in docstring.splitlines()).strip()


def test_every_error_is_in_the_tree() -> None:
    from dexpy.foundation import errors

    docstring = errors.__doc__ or ""
    classes = [name for name, value in vars(errors).items() if isinstance(value, type)]
    names = [name for name in classes if name[0] != "_" and issubclass(getattr(errors, name), BaseException)]

    assert [name for name in names if not re.search(rf"\b{name}\b", docstring)] == []


@pytest.mark.parametrize(
    "name",
    [
        *("once", "unique", "lock", "concurrency", "context", "explain", "contract", "encryption", "deferred"),
        *("enqueue-all", "continuations", "progress", "middleware"),
    ],
)
def test_the_page_of_a_policy_has_the_headings_of_all_of_them(name: str) -> None:
    text = (HOME / "docs" / "reference" / f"{name}.md").read_text("utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Example",
        "Options",
        "Behaviour",
        "Errors",
        "With other policies",
        "Testing",
    ]
