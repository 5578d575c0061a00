"""How a conversation is written for the model.

Source: `build_prompt` and `build_chat_input` in `tokenization_chatglm.py` of the published checkpoints. Where the
original encodes a message's text alone it stands after a space, since sentencepiece puts one before every text.
"""

from __future__ import annotations

CHATGLM2 = (
    "[gMASK]<sop>"
    "{%- set said = namespace(round=1, before='', open=false) %}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}"
    # It was taught no such role: what it says stands at the head of the next question.
    "{%- set said.before = said.before ~ message['content'] ~ '\\n\\n' %}"
    "{%- elif message['role'] == 'user' %}"
    "{{- '\\n\\n' if said.open else '' }}"
    "{{- '[Round ' ~ said.round ~ ']\\n\\n问：' ~ said.before ~ message['content'] ~ '\\n\\n答：' }}"
    "{%- set said.round = said.round + 1 %}{%- set said.before = '' %}{%- set said.open = true %}"
    "{%- elif message['role'] == 'assistant' %}"
    "{{- message['content'] ~ '\\n\\n' }}{%- set said.open = false %}"
    "{%- else %}{{- raise_exception('ChatGLM2 knows system, user and assistant, not ' ~ message['role']) }}"
    "{%- endif %}{%- endfor %}"
)

CHATGLM3 = (
    "[gMASK]<sop>"
    "{%- for message in messages %}"
    "{%- set role = 'observation' if message['role'] == 'tool' else message['role'] %}"
    "{%- if role not in ['system', 'user', 'assistant', 'observation'] %}"
    "{{- raise_exception('ChatGLM3 knows system, user, assistant and tool, not ' ~ role) }}"
    "{%- endif %}"
    "{{- '<|' ~ role ~ '|>\\n' ~ (' ' ~ message['content'] if message['content'] else '') }}"
    "{%- endfor %}"
    # The original lets the model write this line break, or a tool's name before it, whose arguments it then evaluates.
    "{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}"
)
OF_GENERATION = {2: CHATGLM2, 3: CHATGLM3}
