"""The control block: its words, and who writes them."""

import ast
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st
from processes import ROOT

from tuncer.protocol.control_block import SIZE, ControlBlock

WORDS = {name for name in vars(ControlBlock) if not name.startswith("_")} - {
    *("words", "format", "check", "packets", "bytes", "mark")
}


def test_each_word_has_one_writer() -> None:
    writers = defaultdict(set)
    for path in (ROOT / "tuncer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [node.target] if isinstance(node, ast.AugAssign) else targets
            for target in targets:
                if isinstance(target, ast.Attribute) and target.attr in WORDS:
                    owner = ast.unparse(target.value)
                    if owner.rpartition(".")[2].strip("_") == "control":
                        writers[target.attr].add(path.name)
    of_the_ring = {"head", "oldest", "cleared", "filtered", "filtered_bytes"}  # by their numbers
    assert writers.keys() == WORDS - of_the_ring
    assert {word: found for word, found in writers.items() if len(found) > 1} == {}


@given(st.integers(0, 2**64 - 2))
def test_none_and_0_are_told_apart(number: int) -> None:
    block = ControlBlock(memoryview(bytearray(SIZE)).cast("Q"))
    assert (block.transmitted, block.ended) == (None, None)
    block.transmitted = block.ended = number
    assert (block.transmitted, block.ended) == (number, number)
