"""V3.2's chat format as a Jinja template, so that a policy of this toolkit chats in transformers as it does here.

Stored next to the tokenizer as ``chat_template.jinja``. ``thinking`` (or ``enable_thinking``) chooses the mode. It
writes what ``rl.chat.v32.render_text`` writes with retention ``cycle``; messages have OpenAI's form. What the format
cannot
express (a developer message, a result without a call) raises there and is not looked for here.
"""

from __future__ import annotations

import json

from rl.chat import dsml

_HEAD, _TAIL = (json.dumps(part, ensure_ascii=False) for part in dsml.tools_block([{}]).split("{}"))


def _text(value: str) -> str:
    """``value`` as an expression of Jinja."""
    return json.dumps(value, ensure_ascii=False)


TEMPLATE = f"""\
{{%- set think = thinking if thinking is defined else (enable_thinking if enable_thinking is defined else false) -%}}
{{%- set at = namespace(user=-1, tools=tools or []) -%}}
{{%- for m in messages -%}}
{{%- if m.role == "user" -%}}{{%- set at.user = loop.index0 -%}}{{%- endif -%}}
{{%- endfor -%}}
{{%- macro describe() -%}}
{{{{- "\\n\\n" + {_HEAD} -}}}}
{{%- for tool in at.tools -%}}
{{{{- "" if loop.first else "\\n" -}}}}{{{{- (tool.function if tool.function is defined else tool) | tojson -}}}}
{{%- endfor -%}}
{{{{- {_TAIL} -}}}}
{{%- endmacro -%}}
{{%- macro call(c) -%}}
{{%- set f = c.function if c.function is defined else c -%}}
{{{{- {_text(dsml.INVOKE_OPEN)} + f.name + '">\\n' -}}}}
{{%- for key, value in f.arguments.items() -%}}
{{{{- ("" if loop.first else "\\n") + {_text(dsml.PARAMETER_OPEN)} + key -}}}}
{{{{- '" string="true">' + value if value is string else '" string="false">' + (value | tojson) -}}}}
{{{{- {_text(dsml.PARAMETER_CLOSE)} -}}}}
{{%- endfor -%}}
{{{{- "\\n" + {_text(dsml.INVOKE_CLOSE)} -}}}}
{{%- endmacro -%}}
{{{{- {_text(dsml.BOS)} -}}}}
{{%- if at.tools and messages[0].role != "system" -%}}{{{{- describe() -}}}}{{%- endif -%}}
{{%- for m in messages -%}}
{{%- set opening = {_text(dsml.THINK)} if think and loop.index0 >= at.user else {_text(dsml.END_THINK)} -%}}
{{%- if m.role == "system" -%}}
{{{{- m.content -}}}}{{%- if at.tools and loop.first -%}}{{{{- describe() -}}}}{{%- endif -%}}
{{%- elif m.role == "user" -%}}
{{{{- {_text(dsml.USER)} + m.content + {_text(dsml.ASSISTANT)} + opening -}}}}
{{%- elif m.role == "assistant" -%}}
{{%- if think and loop.index0 > at.user -%}}
{{{{- (m.reasoning_content if m.reasoning_content is defined and m.reasoning_content else "") -}}}}
{{{{- {_text(dsml.END_THINK)} -}}}}
{{%- endif -%}}
{{{{- m.content if m.content is defined and m.content else "" -}}}}
{{%- if m.tool_calls is defined and m.tool_calls -%}}
{{{{- "\\n\\n" + {_text(dsml.CALLS_OPEN)} + "\\n" -}}}}
{{%- for c in m.tool_calls -%}}{{{{- ("" if loop.first else "\\n") + call(c) -}}}}{{%- endfor -%}}
{{{{- "\\n" + {_text(dsml.CALLS_CLOSE)} -}}}}
{{%- endif -%}}
{{{{- {_text(dsml.EOS)} -}}}}
{{%- elif m.role == "tool" -%}}
{{%- if messages[loop.index0 - 1].role != "tool" -%}}{{{{- "\\n\\n<function_results>" -}}}}{{%- endif -%}}
{{{{- "\\n<result>" + m.content + "</result>" -}}}}
{{%- if loop.last or messages[loop.index0 + 1].role != "tool" -%}}
{{{{- "\\n</function_results>\\n\\n" + opening -}}}}
{{%- endif -%}}
{{%- else -%}}
{{{{- raise_exception("unknown role " + m.role) -}}}}
{{%- endif -%}}
{{%- endfor -%}}
"""
