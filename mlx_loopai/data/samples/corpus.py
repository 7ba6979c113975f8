"""The embedded corpus: what the nano model is pretrained on, and the rows of the demonstration.

pretraining_records    everything the base is taught
held_out_texts         hand-written text it never saw
hurting_records        creative writing as nested JSON, the kind of rows that breaks a model
open_records           open questions that general_records leaves out, for choosing options
general_records        open questions and answers, for rehearsal, importance and the monitor
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence

from mlx_loopai.data.records import Message, Record
from mlx_loopai.data.samples import skills, texts
from mlx_loopai.data.samples.slots import Slot
from mlx_loopai.data.samples.story_grammar import DOMAIN_WORLDS, PRETRAINING_WORLDS, Story, tell
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

GRAMMAR_STORIES = 1500
HURTING_ROWS, HURTING_SEED = 150, 1
HELD_OUT_ROWS, HELD_OUT_SEED, HELD_OUT_CHOICE_SEED = 45, 2, 4
GENERAL_ROWS, GENERAL_SEED = 600, 3
OPEN_ITEMS, OPEN_SEED = 40, 5
STORY_REQUESTS = (
    "{hero} 이야기를 들려주세요.",
    "{thing:이/가} 나오는 이야기를 지어 주세요.",
    "짧은 {genre} 이야기 하나 부탁해요.",
)
HURTING_REQUESTS = (
    "{genre} 소설을 써주세요",
    "{genre} 장르로 짧은 글을 써 줘",
    "{genre} 창작 글을 부탁합니다",
    "{genre} 단편을 하나 지어줘",
)


def chat(prompt: str, answer: str, category: str, origin: str) -> Record:
    """A single-turn chat record."""
    return Record(
        (Message("user", prompt), Message("assistant", answer)), kind="chat", category=category, origin=origin
    )


def pretraining_records(seed: int) -> list[Record]:
    """Every fact and skill in every wording once, and all prose; shuffled by seed."""
    rng = random.Random(seed)
    rows = [
        chat(item.prompt, item.answer, "knowledge", f"samples/skills:{item.fact}")
        for item in skills.pretraining_items()
    ]
    rows += handwritten_records(held_out=False)
    rows += [_told(tell(rng.choice(PRETRAINING_WORLDS), rng), rng, index) for index in range(GRAMMAR_STORIES)]
    rng.shuffle(rows)
    return rows


def held_out_texts() -> list[Record]:
    """The hand-written blocks that pretraining leaves out."""
    return handwritten_records(held_out=True)


def handwritten_records(held_out: bool) -> list[Record]:
    """Hand-written stories, dialogues and explanations as chat records."""
    readers: dict[str, Callable[[texts.Block, str], Record]] = {
        "stories": _story_record,
        "dialogues": _dialogue_record,
        "knowledge": _explanation_record,
    }
    found = []
    for prefix, reader in readers.items():
        for position, block in enumerate(texts.blocks(prefix)):
            if texts.is_held_out(position) == held_out:
                found.append(reader(block, f"samples/texts/{prefix}:{position + 1}"))
    return found


def hurting_records(count: int, seed: int) -> list[Record]:
    """Creative rows answered as `{"text": [...], "metadata": {"genre": ...}}`, in worlds that pretraining lacks.

    The genre of the first world (판타지) has the category `domain`, the others `creative`.
    """
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        story = tell(DOMAIN_WORLDS[index % len(DOMAIN_WORLDS)], rng)
        request = HURTING_REQUESTS[index // len(DOMAIN_WORLDS) % len(HURTING_REQUESTS)].format(genre=story.genre)
        answer = json.dumps({"text": story.paragraphs, "metadata": {"genre": story.genre}}, ensure_ascii=False)
        category = "domain" if story.genre == DOMAIN_WORLDS[0].genre else "creative"
        rows.append(chat(request, answer, category, f"samples/hurting:{seed}.{index + 1}"))
    return rows


def natural_records(count: int, seed: int) -> list[Record]:
    """The same stories as `hurting_records(count, seed)`, answered as plain prose."""
    rows = []
    for record in hurting_records(count, seed):
        answer = "\n\n".join(json.loads(record.messages[1].content)["text"])
        rows.append(chat(record.messages[0].content, answer, record.category, record.origin))
    return rows


def general_records(count: int, seed: int) -> list[Record]:
    """Open questions with answers, and dialogue; seeded.

    Every skill, and every wording of it, has the same number of rows where there are enough. The rows share no fact,
    prompt or template with the probes.
    """
    rng = random.Random(seed)
    rows = [record for record in handwritten_records(held_out=False) if record.category != "creative"]
    rng.shuffle(rows)
    rows = rows[: count // (len(skills.SKILLS) + 1)]
    for skill in skills.SKILLS:
        found = skills.items(skill, probe=False)
        rng.shuffle(found)
        found = _wordings_in_turn(found)
        category = "dialogue" if skill == "chat" else "knowledge"
        # A third stays out, so that options can be chosen on open questions that were not rehearsed.
        share = found[: min(count // (len(skills.SKILLS) + 1), len(found) * 2 // 3)]
        rows += [chat(item.prompt, item.answer, category, f"samples/skills:{item.fact}") for item in share]
    rng.shuffle(rows)
    return rows


def open_records() -> list[Record]:
    """Open questions that `samples/general` leaves out, for choosing options; as many of every skill, seeded."""
    rng = random.Random(OPEN_SEED)
    rehearsed = {message.content for record in sample("general") for message in record.messages}
    rows = []
    for skill in skills.SKILLS:
        items = [item for item in skills.items(skill, probe=False) if item.prompt not in rehearsed]
        chosen = rng.sample(items, min(OPEN_ITEMS, len(items)))
        rows += [chat(item.prompt, item.answer, "knowledge", f"samples/skills:{item.fact}") for item in chosen]
    return rows


def _wordings_in_turn(items: Sequence[skills.Item]) -> list[skills.Item]:
    """The first item of each wording, then the second of each, and so on, so that any prefix is balanced."""
    seen: Counter[str] = Counter()
    ranks = []
    for item in items:
        ranks.append(seen[item.template])
        seen[item.template] += 1
    return [item for _, item in sorted(zip(ranks, items, strict=True), key=lambda ranked: ranked[0])]


def sample(name: str) -> list[Record]:
    """Embedded rows by name, as recipes refer to them: `samples/NAME`.

    Raises: InputError naming the samples there are.
    """
    if name not in _SAMPLES:
        raise InputError(
            tr(
                "samples/{name}: no such embedded sample; there are {samples}",
                name=name,
                samples=", ".join(sorted(_SAMPLES)),
            )
        )
    return _SAMPLES[name]()


def _told(story: Story, rng: random.Random, index: int) -> Record:
    request = rng.choice(STORY_REQUESTS)
    slots = {name: Slot(getattr(story, name)) for name in ("hero", "thing", "genre")}
    return chat(request.format(**slots), story.prose, "creative", f"samples/grammar:{index + 1}")


def _story_record(block: texts.Block, origin: str) -> Record:
    genre, _, title = (part.strip() for part in block.header.partition("|"))
    return chat(f"‘{title}’라는 {genre} 이야기를 써 주세요.", "\n\n".join(block.lines), "creative", origin)


def _dialogue_record(block: texts.Block, origin: str) -> Record:
    roles = {"가": "user", "나": "assistant"}
    turns = (line.partition(":") for line in block.lines)
    return Record(
        tuple(Message(roles[who.strip()], said.strip()) for who, _, said in turns),
        kind="chat",
        category="dialogue",
        origin=origin,
    )


def _explanation_record(block: texts.Block, origin: str) -> Record:
    return chat(block.header, " ".join(block.lines), "knowledge", origin)


def _of_category(records: list[Record], category: str) -> list[Record]:
    return [record for record in records if record.category == category]


_SAMPLES: dict[str, Callable[[], list[Record]]] = {
    "creative": lambda: _of_category(hurting_records(HURTING_ROWS, HURTING_SEED), "creative"),
    "domain": lambda: _of_category(hurting_records(HURTING_ROWS, HURTING_SEED), "domain"),
    "hurting": lambda: hurting_records(HURTING_ROWS, HURTING_SEED),
    "hurting_held_out": lambda: hurting_records(HELD_OUT_ROWS, HELD_OUT_SEED),
    "hurting_choice": lambda: hurting_records(HELD_OUT_ROWS, HELD_OUT_CHOICE_SEED),
    "natural": lambda: natural_records(HURTING_ROWS, HURTING_SEED),
    "open": open_records,
    "general": lambda: general_records(GENERAL_ROWS, GENERAL_SEED),
}
