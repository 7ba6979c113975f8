"""Token rows: what is supervised, what generation reads, and how long records are divided."""

from __future__ import annotations

import copy
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mlx_loopai.data import encoding
from mlx_loopai.data.encoding import encode_records
from mlx_loopai.data.records import Message, Record
from mlx_loopai.data.row_identity import rows_digest
from mlx_loopai.data.sentences import sentence_units, whole_sentences
from mlx_loopai.data.template import ChatTemplate
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.errors import InputError

ONCE = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Letters, spaces, line ends and emoji; no markup of the template, which would be markup to the tokenizer too.
CONTENT = st.text(alphabet="가나다 요.!?\n abc3🙂é", min_size=1, max_size=30)
EXCHANGES = st.lists(st.tuples(CONTENT, CONTENT.filter(str.strip)), min_size=1, max_size=4)


def chat(*contents: str, system: str = "") -> Record:
    turns = tuple(Message(("user", "assistant")[index % 2], text) for index, text in enumerate(contents))
    return Record(((Message("system", system),) if system else ()) + turns, "chat", "dialogue", "rows.jsonl:7")


def text_record(text: str) -> Record:
    return Record((Message("assistant", text),), "text", "creative", "rows.jsonl:9")


TO_BYTE = {character: byte for byte, character in bytes_to_unicode().items()}


def token_bytes(tokenizer, token: int) -> bytes:
    piece = tokenizer.convert_ids_to_tokens(token)
    return piece.encode() if piece.startswith("<|") else bytes(TO_BYTE[character] for character in piece)


def slow_supervision(tokenizer, ids, rendered: str) -> list[bool]:
    """Reference: a token is supervised when its bytes lie in `answer<|im_end|>` of the rendered conversation."""
    data = rendered.encode()
    spans = [match.span(1) for match in re.finditer(rb"<\|im_start\|>assistant\n(.*?<\|im_end\|>)", data, re.DOTALL)]
    supervised, position = [], 0
    for token in ids:
        piece = token_bytes(tokenizer, int(token))
        assert data[position : position + len(piece)] == piece
        end = position + len(piece)
        supervised.append(any(start <= position and end <= stop for start, stop in spans))
        position = end
    assert data[position:] in (b"", b"\n")
    return supervised


def decoded(tokenizer, ids) -> str:
    return b"".join(token_bytes(tokenizer, int(token)) for token in ids).decode()


@ONCE
@given(exchanges=EXCHANGES, system=st.sampled_from(["", "짧게 답한다."]))
def test_supervised_are_the_answers_of_every_turn_and_their_ends(tokenizer, exchanges, system):
    record = chat(*[content for exchange in exchanges for content in exchange], system=system)
    row = ChatEncoder(tokenizer).encode(record)
    turns = [{"role": message.role, "content": message.content} for message in record.messages]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    assert row.ids.dtype == np.int32
    assert row.supervised.dtype == np.bool_
    assert row.supervised.tolist() == slow_supervision(tokenizer, row.ids, rendered)
    taught = decoded(tokenizer, row.ids[row.supervised])
    assert taught == "".join(answer + "<|im_end|>" for _, answer in exchanges)


@ONCE
@given(exchanges=EXCHANGES)
def test_training_rows_begin_with_the_prompt_of_generation(tokenizer, exchanges):
    record = chat(*[content for exchange in exchanges for content in exchange])
    encoder = ChatEncoder(tokenizer, system_prompt="너는 작가다.")
    row = encoder.encode(record)
    for answered in range(len(exchanges)):
        prompt = encoder.prompt_ids(record.messages[: 2 * answered + 1])
        assert row.ids[: len(prompt)].tolist() == prompt
        assert row.supervised[len(prompt)]
        assert not row.supervised[len(prompt) - 1]


def test_row_carries_origin_and_category(chatml):
    row = ChatEncoder(chatml).encode(chat("안녕", "네"))
    assert (row.origin, row.category) == ("rows.jsonl:7", "dialogue")


def test_turns_after_the_last_answer_are_left_out(chatml):
    encoder = ChatEncoder(chatml)
    assert encoder.encode(chat("하나", "둘", "셋")).ids.tolist() == encoder.encode(chat("하나", "둘")).ids.tolist()


def test_text_rows_supervise_all_but_the_first_token_and_end(tokenizer):
    row = ChatEncoder(tokenizer).encode(text_record("옛날 옛적에."))
    assert row.ids.tolist() == [*tokenizer.encode("옛날 옛적에.", add_special_tokens=False), tokenizer.eos_token_id]
    assert row.supervised.tolist() == [False] + [True] * (len(row.ids) - 1)


def test_system_prompt_stands_first_unless_the_record_has_its_own(qwen):
    default = decoded(qwen, ChatEncoder(qwen).prompt_ids([Message("user", "안녕")]))
    given_one = decoded(qwen, ChatEncoder(qwen, "너는 작가다.").prompt_ids([Message("user", "안녕")]))
    own = decoded(qwen, ChatEncoder(qwen, "너는 작가다.").encode(chat("안녕", "네", system="짧게.")).ids)
    assert default.startswith("<|im_start|>system\nYou are Qwen")
    assert (
        given_one
        == "<|im_start|>system\n너는 작가다.<|im_end|>\n<|im_start|>user\n안녕<|im_end|>\n<|im_start|>assistant\n"
    )
    assert own.startswith("<|im_start|>system\n짧게.<|im_end|>\n<|im_start|>user")


def test_no_system_prompt_is_made_up(thinking):
    assert decoded(thinking, ChatEncoder(thinking).prompt_ids([Message("user", "안녕")])).startswith(
        "<|im_start|>user\n"
    )


def test_thinking_template_is_used_without_thinking(thinking):
    encoder = ChatEncoder(thinking)
    record = chat("하나", "답 하나", "둘", "답 둘")
    row = encoder.encode(record)
    assert decoded(thinking, row.ids) == (
        "<|im_start|>user\n하나<|im_end|>\n<|im_start|>assistant\n답 하나<|im_end|>\n"
        "<|im_start|>user\n둘<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n답 둘<|im_end|>"
    )
    assert decoded(thinking, row.ids[row.supervised]) == "답 하나<|im_end|>답 둘<|im_end|>"
    prompt = encoder.prompt_ids(record.messages[:3])
    assert row.ids[: len(prompt)].tolist() == prompt
    assert decoded(thinking, encoder.prompt_ids(record.messages[:1])).endswith("assistant\n<think>\n\n</think>\n\n")


def test_a_thinking_block_in_an_answer_is_an_input_error(thinking):
    with pytest.raises(InputError, match=r"rows.jsonl:7: .*thinking block"):
        ChatEncoder(thinking).encode(chat("하나", "<think>음</think>답"))


def test_inner_line_ends_and_outer_spaces_follow_the_template(thinking):
    row = ChatEncoder(thinking).encode(chat("하나", "\n\n답.\n끝"))
    assert decoded(thinking, row.ids[row.supervised]) == "답.\n끝<|im_end|>"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>bot{% endif %}", "not prefix-consistent"),
        ("{% for m in messages %}{% if loop.last %}{{ m['content'] }}<|im_end|>{% endif %}{% endfor %}", "drops or repeats|not prefix-consistent"),
        ("{{ raise_exception('roles must alternate') }}", "refuses this: roles must alternate"),
    ],
)  # fmt: skip
def test_unsuitable_templates_are_named_with_the_origin(with_template, template, reason):
    with pytest.raises(InputError, match=rf"rows.jsonl:7: .*({reason})"):
        ChatEncoder(with_template(template)).encode(chat("하나", "둘", "셋", "넷"))


def test_a_template_that_ends_no_turn_is_refused(with_template):
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    with pytest.raises(InputError, match="ends no assistant turn"):
        ChatEncoder(with_template(template)).encode(chat("하나", "둘"))


def test_without_a_template_text_still_works_and_chat_says_why_not(with_template):
    encoder = ChatEncoder(with_template(None))
    assert encoder.encode(text_record("글.")).supervised.any()
    with pytest.raises(InputError, match="has no chat template"):
        encoder.encode(chat("하나", "둘"))
    with pytest.raises(InputError) as caught:
        encode_records(encoder, [chat("하나", "둘")] * 3, 100)
    assert str(caught.value).count("has no chat template") == 1


def test_nothing_to_learn_is_an_input_error(chatml):
    with pytest.raises(InputError, match=r"rows.jsonl:7: no assistant turn"):
        ChatEncoder(chatml).encode(chat("하나"))


@pytest.mark.parametrize("name", ["chatml", "thinking"])
def test_the_wrapper_of_mlx_lm_gives_the_same_rows(request, name):
    wrapper = pytest.importorskip("mlx_lm.tokenizer_utils").TokenizerWrapper
    plain = request.getfixturevalue(name)
    record = chat("하나", "둘", "셋", "넷")
    for encode in (
        lambda coder: coder.encode(record).ids.tolist(),
        lambda coder: coder.prompt_ids(record.messages[:3]),
    ):
        assert encode(ChatEncoder(wrapper(plain))) == encode(ChatEncoder(plain))


@given(st.text(alphabet='가 나.!?。…\n"”ab3', max_size=60))
def test_sentence_units_lose_nothing(text):
    assert "".join(sentence_units(text)) == text


def test_sentence_units_end_at_sentences_and_lines():
    text = '원주율은 3.14다. "정말?" 그가 물었다.\n\n끝…\n「はい。」次。제목\n본문'
    assert sentence_units(text) == [
        "원주율은 3.14다.", ' "정말?"', " 그가 물었다.\n\n", "끝…\n", "「はい。」", "次。", "제목\n", "본문",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("하나. 둘!\n1. 셋", "하나. 둘!"),
        ("하나.\n2. ", "하나."),
        ('그가 말했다. "가자!"  ', '그가 말했다. "가자!"'),
        ("제목\n본문", ""),
        ("원주율은 3.14", ""),
        ("", ""),
    ],
)
def test_whole_sentences_end_with_a_finished_one(text: str, whole: str) -> None:
    assert whole_sentences(text) == whole


STORY = "\n\n".join(f"{i}번째 밤이었다. 달이 떴다! 그는 걸었다." for i in range(12))


@pytest.mark.parametrize("max_tokens", [120, 150, 250])
def test_a_long_answer_is_divided_at_sentences_and_taught_once(tokenizer, max_tokens):
    encoder = ChatEncoder(tokenizer)
    record = chat("이야기를 써 줘.", STORY)
    rows = encoder.split_long(record, max_tokens)
    prompt = encoder.prompt_ids(record.messages[:1])
    assert len(rows) > 1
    assert all(len(row.ids) <= max_tokens for row in rows)
    assert all(row.ids[: len(prompt)].tolist() == prompt for row in rows)
    taught = [decoded(tokenizer, row.ids[row.supervised]) for row in rows]
    assert "".join(taught) == STORY + "<|im_end|>"
    assert all(part.rstrip().endswith((".", "!")) for part in taught[:-1])


def test_a_continuation_shows_what_came_before_untaught(qwen):
    encoder = ChatEncoder(qwen)
    first, second, *_ = encoder.split_long(chat("이야기를 써 줘.", STORY), 150)
    prompt = encoder.prompt_ids([Message("user", "이야기를 써 줘.")])
    shown = decoded(qwen, second.ids[len(prompt) : int(second.supervised.argmax())])
    assert shown
    assert decoded(qwen, first.ids[first.supervised]).endswith(shown)


@ONCE
@given(max_tokens=st.integers(40, 200))
def test_a_long_text_is_divided_and_taught_once(chatml, max_tokens):
    rows = ChatEncoder(chatml).split_long(text_record(STORY), max_tokens)
    assert all(len(row.ids) <= max_tokens for row in rows)
    taught = [token for row in rows for token in row.ids[row.supervised]]
    assert decoded(chatml, [rows[0].ids[0], *taught]) == STORY + "<|im_end|>"


def test_a_long_conversation_is_divided_between_exchanges(tokenizer):
    encoder = ChatEncoder(tokenizer)
    contents = [f"{kind} {i}." for i in range(10) for kind in ("질문", "답")]
    record = chat(*contents, system="짧게 답한다.")
    whole = encoder.encode(record)
    rows = encoder.split_long(record, len(whole.ids) // 3)
    assert len(rows) >= 3
    assert all(len(row.ids) <= len(whole.ids) // 3 for row in rows)
    assert all("짧게 답한다." in decoded(tokenizer, row.ids) for row in rows)
    taught = "".join(decoded(tokenizer, row.ids[row.supervised]) for row in rows)
    assert taught == decoded(tokenizer, whole.ids[whole.supervised])


def test_what_cannot_be_divided_is_named_not_cut(chatml):
    encoder = ChatEncoder(chatml)
    records = [chat("질" * 50, "답."), text_record("가" * 100), chat("짧게", "네.")]
    with pytest.raises(InputError) as caught:
        encode_records(encoder, records, 60)
    assert "rows.jsonl:7: its prompt has" in str(caught.value)
    assert "rows.jsonl:9: its longest sentence has" in str(caught.value)


def test_the_notice_counts_what_was_divided(tokenizer):
    encoder = ChatEncoder(tokenizer)
    records = [chat("이야기를 써 줘.", STORY), chat("안녕", "네.")]
    rows, notice = encode_records(encoder, records, 200)
    assert (notice.records, notice.rows, notice.max_tokens) == (1, len(rows) - 1, 200)
    assert notice.longest_tokens == len(encoder.encode(records[0]).ids)
    assert "nothing cut off" in str(notice)
    assert encode_records(encoder, records, 10_000)[1] is None


def test_data_modules_import_neither_mlx_nor_mlx_lm():
    program = (
        "import sys, mlx_loopai.data.batches, mlx_loopai.data.mixture;"
        "sys.exit(any(name.split('.')[0] in ('mlx', 'mlx_lm', 'transformers', 'torch') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("text", ["안녕하세요.", "<|endoftext|>안녕하세요."])
def test_a_text_begins_with_the_tokenizers_own_beginning_once(chatml, text) -> None:
    """mlx-lm's text rows and completions have it; a row without it is like nothing that the model has seen."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(chatml)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    row = ChatEncoder(tokenizer).encode(text_record(text))
    assert row.ids[0] == 0
    assert list(row.ids[1:-1]) == chatml.encode("안녕하세요.", add_special_tokens=False)
    assert row.supervised.tolist() == [False, *[True] * (len(row.ids) - 1)]
    long = ChatEncoder(tokenizer).split_long(text_record(f"{text} " * 9), 30)
    assert len(long) > 1
    assert all(part.ids[0] == 0 and not part.supervised[0] for part in long)
    # A template writes its own beginning.
    assert ChatEncoder(tokenizer).encode(chat("a", "b")).ids[0] != 0


TRIMMING = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }} </end>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
OUTER = st.sampled_from(["", " ", "\n", "\n\n", " \n"])


@ONCE
@given(exchanges=EXCHANGES, around=st.tuples(OUTER, OUTER), template=st.sampled_from([None, TRIMMING]))
def test_a_conversation_read_without_marks_is_the_one_read_with_them(
    chatml, thinking, with_template, exchanges, around, template
):
    before, after = around
    contents = [text for asked, answer in exchanges for text in (asked, before + answer + after)]
    for tokenizer in [chatml, thinking] if template is None else [with_template(template)]:
        plain, marking = ChatTemplate(tokenizer), ChatTemplate(tokenizer)
        marking._plain_turns = marking._known_turns = lambda chat: None
        messages = chat(*contents).messages
        assert plain._plain_turns(plain._chat(messages, "", "rows.jsonl:7")) is not None
        assert plain.turns(messages, "rows.jsonl:7") == marking.turns(messages, "rows.jsonl:7")


def test_many_records_give_the_rows_and_errors_that_each_gives(tokenizer):
    records = [chat("하나", "둘"), chat("하나"), text_record("글이다."), chat("하나", "둘 <|im_end|> 셋", "넷", "둘")]
    encoder = ChatEncoder(tokenizer)
    first, missing, text, last = encoder.encode_many(records)
    assert isinstance(missing, InputError)
    assert rows_digest([first, text, last]) == rows_digest(
        [encoder.encode(records[0]), encoder.encode(records[2]), encoder.encode(records[3])]
    )
    assert str(missing).startswith("rows.jsonl:7: no assistant turn")


def test_rows_do_not_depend_on_how_many_are_encoded_at_once(tokenizer, monkeypatch):
    records = [chat(f"질문 {i}", f"{i}번째 답 <|im_end|>.") for i in range(7)]
    together, _ = encode_records(ChatEncoder(tokenizer), records, 100)
    monkeypatch.setattr(encoding, "_BATCH_CHARACTERS", 1)
    assert rows_digest(encode_records(ChatEncoder(tokenizer), records, 100)[0]) == rows_digest(together)
    monkeypatch.setattr(encoding, "_BATCH_ROWS", 3)
    assert rows_digest(encode_records(ChatEncoder(tokenizer), records, 100)[0]) == rows_digest(together)
