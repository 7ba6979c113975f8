"""A template that is proven to copy plain texts gives what it gives when it is run for each; others are not proven."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.data.records import Message
from mlx_loopai.data.template import ChatTemplate
from mlx_loopai.data.template_proof import copies_plain_texts
from mlx_loopai.data.turn_forms import is_plain
from mlx_loopai.errors import InputError
from mlx_loopai.models.load import NANO_FOLDER, load_tokenizer
from tests.unit.data.conftest import CHATML, THINKING, tiny_tokenizer

NANO = load_tokenizer(NANO_FOLDER)
EACH = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>\n{% endfor %}"
ASKED = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
# In the manner of Qwen2.5: tools, a default system prompt, a text that may be missing.
WITH_TOOLS = (
    "{%- if tools %}{{- '<|im_start|>system\\n' + messages[0]['content'] }}{% for tool in tools %}{{ tool | tojson }}"
    "{% endfor %}{%- elif messages[0].role != 'system' %}{{- '<|im_start|>system\\n100 % 도우미다.<|im_end|>\\n' }}"
    "{%- endif %}{%- for message in messages %}"
    "{%- if message.role == 'assistant' and message.tool_calls is defined %}{% if message.content %}"
    "{{- '\\n' ~ message.content }}{% endif %}{{ message.tool_calls[0].function.name }}"
    "{%- elif loop.first or messages[loop.index0 - 1].role != message.role %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{% endif %}{% endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# In the manner of Qwen3: thoughts are taken out of texts, answers of tools are looked for.
WITH_THOUGHTS = (
    "{%- set ns = namespace(last=messages|length - 1, looks=true) %}"
    "{%- for message in messages[::-1] %}{%- if ns.looks and message.role == 'user' and message.content is string and"
    " not (message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}"
    "{%- set ns.looks = false %}{%- set ns.last = messages|length - 1 - loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}"
    "{%- set content = message.content if message.content is string else '' %}{%- set thoughts = '' %}"
    "{%- if message.role == 'assistant' %}{%- if '</think>' in content %}"
    "{%- set thoughts = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last and (loop.last or thoughts) %}"
    "{{- '<|im_start|>assistant\\n<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}"
    "{%- else %}{{- '<|im_start|>assistant\\n' + content }}{%- endif %}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\\n' + content | trim }}{%- endif %}{{- '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}{%- endif %}"
)
FILTERED = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content or '' %}{% set turns = messages[1:] %}"
    "{% else %}{% set turns = messages %}{% endif %}{% for turn in turns if turn.role != 'tool' %}"
    "{% if 'content' not in turn %}{{ raise_exception('no text') }}{% endif %}[{{ turn['role'] }}] "
    "{% if loop.first and system %}({{ system }}) {% endif %}{{ turn['content'].strip() }} </end>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
STRICT = "{% if messages[0].role != 'user' %}{{ raise_exception('a user first') }}{% endif %}" + EACH + ASKED
COPYING = [CHATML, THINKING, EACH + ASKED, WITH_TOOLS, WITH_THOUGHTS, FILTERED, STRICT, NANO.chat_template]

SOUND = "{% for message in messages %}{{ message.content }}{% endfor %}"
LOOKING = [
    "{{ messages[0].content | length }}",
    "{{ messages[0].content[:3] }}",
    "{{ messages[0].content[0] }}",
    "{{ messages[0]['content'] | upper }}",
    "{{ messages[0].content.upper() }}",
    "{{ messages[0].content.startswith('가') }}",
    "{{ messages[0].content.strip('가') }}",
    "{{ messages[0].content.split('가')[0] }}",
    "{{ messages[0].content.split('<x>') }}",
    "{{ messages[0].content.split('<x>')[0:1] }}",
    "{{ ('ab' + messages[0].content).startswith('abc<x>') }}",
    "{{ ('ab' + messages[0].content) | trim }}",
    "{{ messages[0].content == '가' }}",
    "{{ '가' in messages[0].content }}",
    "{{ messages[0].content in '가나다' }}",
    "{{ messages[0].content in ['가'] }}",
    "{{ messages[0].content | replace('가', '나') }}",
    "{{ '%s' % messages[0].content }}",
    "{{ messages[0].content * 2 }}",
    "{{ '{}'.format(messages[0].content) }}",
    "{% for one in messages[0].content %}{{ one }}{% endfor %}",
    "{{ messages[0] }}",
    "{{ messages | tojson }}",
    "{{ messages | map(attribute='content') | join }}",
    "{{ messages[0].items() | list }}",
    "{{ messages[0].get('content') | length }}",
    "{% for key in messages[0] %}{{ messages[0][key] | length }}{% endfor %}",
    "{% for message in messages %}{{ loop.previtem.content | length }}{% endfor %}",
    "{% for message in messages %}{{ loop['nextitem'].content | length }}{% endfor %}",
    "{% for message in messages %}{% if loop.changed(message.content) %}x{% endif %}{% endfor %}",
    "{% for message in messages %}{% for other in loop %}{{ other }}{% endfor %}{% endfor %}",
    "{% for message in messages if message.content == '가' %}x{% endfor %}",
    "{% set ns = namespace() %}{% set ns.text = messages[0].content %}{{ ns.text | length }}",
    "{% set ns = namespace(text=messages[0].content) %}{{ ns.text | length }}",
    "{% set text = messages[0].content %}{{ text | length }}",
    "{% set text = 'x' ~ messages[0].content %}{{ text | length }}",
    "{% for m in messages %}{{ text | length }}{% set text = m.content %}{% endfor %}",
    "{% set text %}{{ messages[0].content }}{% endset %}{{ text | length }}",
    "{% macro of(text) %}{{ text | length }}{% endmacro %}{{ of(messages[0].content) }}",
    "{% filter upper %}{{ messages[0].content }}{% endfilter %}",
    "{% set a, b = messages[0].content, 1 %}{{ a | length }}",
    "{% set texts = [messages[0].content] %}{{ texts[0] | length }}",
    "{{ strftime_now('%H:%M:%S') }}",
    "{{ [1, 2, 3] | random }}",
    "{{ messages[0].content is eq('가') }}",
    "{{ (messages[0].content if true else 1) | length }}",
    "{{ messages[0].content ",
]


def texts() -> Any:
    plain = st.text(st.sampled_from("가나다 a1%{}\n.🙂"), max_size=12)
    return plain | st.sampled_from(
        ["", " 가", "가\n", "<think>\n음\n</think>\n\n가", "<tool_response>x</tool_response>", "%s"]
    )


@pytest.mark.parametrize("template", COPYING)
def test_templates_that_copy_are_proven(template: str) -> None:
    assert copies_plain_texts(template)


@pytest.mark.parametrize("template", LOOKING)
def test_templates_that_look_are_not_proven(template: str) -> None:
    assert not copies_plain_texts(SOUND + template)


CONVERSATIONS = st.lists(st.tuples(st.sampled_from(["user", "assistant", "system", "tool"]), texts()), max_size=5)
TOKENIZERS = [tiny_tokenizer(template) for template in COPYING[:-1]]


@pytest.mark.parametrize("tokenizer", [*TOKENIZERS, NANO])
def test_known_conversations_are_read_as_the_template_writes_them(tokenizer: Any) -> None:
    known, run = ChatTemplate(tokenizer, "너는 도우미다."), ChatTemplate(tokenizer, "너는 도우미다.")
    run._known_turns = lambda chat: None  # type: ignore[method-assign]

    def read(template: ChatTemplate, messages: list[Message]) -> Any:
        try:
            return template.turns(messages, "f:1")
        except InputError as error:
            return str(error)

    @given(start=CONVERSATIONS, asked=texts(), answer=texts())
    def same(start: list[tuple[str, str]], asked: str, answer: str) -> None:
        turns = [*start, ("user", asked), ("assistant", answer)]
        messages = [Message(role, text) for role, text in turns]
        assert read(known, messages) == read(run, messages)

    same()
    messages, template = [Message("user", "안녕"), Message("assistant", "그래 100 %")], ChatTemplate(tokenizer)
    assert template._known_turns(template._chat(messages, "", "f:1")) == template.turns(messages, "f:1")


def test_a_tokenizer_that_writes_conversations_itself_is_asked_each_time() -> None:
    tokenizer = tiny_tokenizer(EACH + ASKED)

    class Other(type(tokenizer)):  # type: ignore[misc]
        def apply_chat_template(self, messages: Any, **options: Any) -> Any:
            return super().apply_chat_template([m | {"content": m["content"].upper()} for m in messages], **options)

    other = Other(tokenizer_object=tokenizer.backend_tokenizer)
    other.chat_template = tokenizer.chat_template
    assert ChatTemplate(tokenizer)._copies
    assert not ChatTemplate(other)._copies


@pytest.mark.parametrize(
    ("text", "plain"), [("가 나", True), ("", False), (" 가", False), ("가\u3000", False), ("가<나", False)]
)
def test_plain_texts(text: str, plain: bool) -> None:
    assert is_plain(text) == plain
