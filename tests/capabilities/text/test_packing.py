"""Documents into training blocks, and chat turns among them."""

from pathlib import Path

import numpy as np
import pytest

from modelworks.capabilities.text.chat_examples import turns
from modelworks.capabilities.text.data import Document
from modelworks.capabilities.text.packing import Blocks, ReplayedBlocks, write_tokens
from modelworks.capabilities.text.tokenizer import train_tokenizer
from modelworks.contract.errors import InvalidData
from modelworks.testing.tiny_data import sentences

TOKENIZER = train_tokenizer(sentences(100), 400, "Be brief.", 128)
PASSAGE = "It was repaired during the night shift, and needed more oil."


def test_headings_and_docstrings_become_questions_and_their_passages_answers() -> None:
    markdown = f"# Pumps #\n\n{PASSAGE}\n\n## Short\n\ntoo short\n\n## 水泵\n\n{PASSAGE}\n"
    assert [(turn.question, turn.answer) for turn in turns(Document("a.md", markdown))] == [
        ("Tell me about Pumps.", PASSAGE),
        ("请介绍“水泵”。", PASSAGE),
    ]
    code = f'def start(pump):\n    """{PASSAGE}"""\n    return pump\n'
    assert [(turn.question, turn.answer) for turn in turns(Document("a.py", code))] == [("What does start do?", PASSAGE)]
    underlined = f"Motors\n======\n\n{PASSAGE}\n"
    assert [turn.question for turn in turns(Document("a.rst", underlined))] == ["Tell me about Motors."]
    assert list(turns(Document("a.txt", PASSAGE * 9))) == []


def test_long_passages_are_cut_at_a_paragraph() -> None:
    text = "# Long\n\n" + "\n\n".join(f"{number} {PASSAGE}" for number in range(50))
    (turn,) = turns(Document("a.md", text))
    assert len(turn.answer) <= 1200
    assert turn.answer.endswith(PASSAGE)


def written(path: Path, documents: list[Document], chat_fraction: float, seed: int = 0) -> list[int]:
    number = write_tokens(
        path, documents, TOKENIZER, end_id=0, chat_fraction=chat_fraction, system_prompt="Be brief.", seed=seed
    )
    ids = np.fromfile(path, dtype=np.uint32).tolist()
    assert len(ids) == number
    return [int(token) for token in ids]


def test_documents_are_separated_and_chat_takes_its_part(tmp_path: Path) -> None:
    documents = [Document(str(number), f"# Part {number}\n\n{number} {PASSAGE}") for number in range(30)]
    plain = written(tmp_path / "plain", documents, 0.0)
    assert plain.count(0) == 30
    assert 1 not in plain
    texts = {
        TOKENIZER.decode(part) for part in " ".join(map(str, plain)).split(" 0") for part in [list(map(int, part.split()))]
    }
    assert texts >= {document.text for document in documents}
    chat = written(tmp_path / "chat", documents, 0.4)
    assert len(chat) > len(plain)
    part = (len(chat) - len(plain)) / len(chat)
    assert 0.3 < part < 0.5
    shown = TOKENIZER.decode(chat)
    assert "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nTell me about Part" in shown
    assert written(tmp_path / "again", documents, 0.4) == chat
    assert written(tmp_path / "other", documents, 0.4, seed=1) != chat


def test_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="fewer than two tokens"):
        written(tmp_path / "none", [Document("a", "")], 0.0)


def test_blocks_follow_from_seed_and_step_alone_and_cover_every_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    np.arange(1001, dtype=np.uint32).tofile(path)
    blocks = Blocks(path, 1001, block_length=10, batch_size=5, seed=3)
    first_pass = [blocks.batch(step) for step in range(20)]
    assert all(inputs.shape == targets.shape == (5, 10) for inputs, targets in first_pass)
    assert all((inputs + 1 == targets).all() for inputs, targets in first_pass)
    assert sorted(token for inputs, _ in first_pass for token in inputs.flatten().tolist()) == list(range(1000))
    late = Blocks(path, 1001, block_length=10, batch_size=5, seed=3).batch(17)
    assert (late[0] == first_pass[17][0]).all()
    second_pass = [blocks.batch(20 + step)[0].flatten().tolist() for step in range(20)]
    assert second_pass != [inputs.flatten().tolist() for inputs, _ in first_pass]
    assert (Blocks(path, 1001, 10, 5, seed=4).batch(0)[0] != first_pass[0][0]).any()


def test_a_text_shorter_than_a_block_is_still_a_block(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    np.arange(7, dtype=np.uint32).tofile(path)
    inputs, targets = Blocks(path, 7, block_length=64, batch_size=2, seed=0).batch(9)
    assert inputs.tolist() == [[0, 1, 2, 3, 4, 5]] * 2
    assert targets.tolist() == [[1, 2, 3, 4, 5, 6]] * 2


def test_replayed_blocks_lie_evenly_among_fresh_ones_and_none_is_lost(tmp_path: Path) -> None:
    np.arange(1001, dtype=np.uint32).tofile(tmp_path / "fresh")
    np.arange(5000, 5201, dtype=np.uint32).tofile(tmp_path / "old")
    fresh = Blocks(tmp_path / "fresh", 1001, block_length=10, batch_size=8, seed=3)
    old = Blocks(tmp_path / "old", 201, block_length=10, batch_size=8, seed=3)
    mixed = ReplayedBlocks(fresh, old, 0.25)
    batches = [mixed.batch(step) for step in range(15)]
    assert all(inputs.shape == (8, 10) and (inputs + 1 == targets).all() for inputs, targets in batches)
    assert [int((inputs[:, 0] >= 5000).sum()) for inputs, _ in batches] == [2] * 15
    rows = [row for inputs, _ in batches for row in inputs]
    assert len({int(row[0]) for row in rows if row[0] < 5000}) == 90, "in one pass, no fresh block comes twice"
    # A resumed run asks for a late step first.
    late = ReplayedBlocks(Blocks(tmp_path / "fresh", 1001, 10, 8, 3), Blocks(tmp_path / "old", 201, 10, 8, 3), 0.25).batch(11)
    assert (late[0] == batches[11][0]).all()


def test_blocks_of_two_lengths_do_not_mix(tmp_path: Path) -> None:
    np.arange(101, dtype=np.uint32).tofile(tmp_path / "tokens")
    with pytest.raises(ValueError, match="10 and of 20 tokens"):
        ReplayedBlocks(Blocks(tmp_path / "tokens", 101, 10, 2, 0), Blocks(tmp_path / "tokens", 101, 20, 2, 0), 0.5)
