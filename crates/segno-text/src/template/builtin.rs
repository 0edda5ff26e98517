//! Formats for files without a template, written as templates.

use crate::tokenizer::Tokenizer;

/// A chat format this crate brings along. Bos is left to the tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuiltinFormat {
    /// `<|im_start|>user\n..<|im_end|>` (Qwen, SmolLM, many others); the default.
    ChatMl,
    /// Llama 3.
    Llama3,
    /// Llama 2 and the first Mistral models.
    Llama2,
    /// Mistral with its own tokenizer of the Tekken kind.
    MistralTekken,
    /// Gemma 1 to 3.
    Gemma,
    /// Phi-3.
    Phi3,
    /// Phi-4.
    Phi4,
    /// gpt-oss.
    GptOss,
    /// Command R.
    CommandR,
    /// EXAONE 3 and 4.
    Exaone,
    /// Granite 3.
    Granite,
}

impl BuiltinFormat {
    /// All formats.
    pub const ALL: [Self; 11] = [
        Self::ChatMl,
        Self::Llama3,
        Self::Llama2,
        Self::MistralTekken,
        Self::Gemma,
        Self::Phi3,
        Self::Phi4,
        Self::GptOss,
        Self::CommandR,
        Self::Exaone,
        Self::Granite,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChatMl => "chatml",
            Self::Llama3 => "llama3",
            Self::Llama2 => "llama2",
            Self::MistralTekken => "mistral-tekken",
            Self::Gemma => "gemma",
            Self::Phi3 => "phi3",
            Self::Phi4 => "phi4",
            Self::GptOss => "gpt-oss",
            Self::CommandR => "command-r",
            Self::Exaone => "exaone",
            Self::Granite => "granite",
        }
    }

    /// The format of a name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The format whose markers the vocabulary has; ChatML if it has none of them.
    pub fn detect(tokenizer: &Tokenizer) -> Self {
        let has = |markers: &[&str]| markers.iter().all(|text| tokenizer.find(text).is_some());
        [
            (Self::Phi4, &["<|im_sep|>", "<|im_start|>"][..]),
            (Self::ChatMl, &["<|im_start|>", "<|im_end|>"]),
            (Self::Llama3, &["<|start_header_id|>", "<|eot_id|>"]),
            (Self::GptOss, &["<|start|>", "<|channel|>"]),
            (Self::CommandR, &["<|START_OF_TURN_TOKEN|>"]),
            (Self::Exaone, &["[|assistant|]"]),
            (Self::Granite, &["<|start_of_role|>"]),
            (Self::Gemma, &["<start_of_turn>"]),
            (Self::Phi3, &["<|assistant|>", "<|end|>"]),
            (Self::MistralTekken, &["[INST]", "[/INST]"]),
        ]
        .into_iter()
        .find(|(_, markers)| has(markers))
        .map_or(Self::ChatMl, |(format, _)| format)
    }

    /// The format as a Jinja template.
    pub fn source(self) -> &'static str {
        match self {
            Self::ChatMl => {
                "{%- for m in messages -%}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
            }
            Self::Llama3 => {
                "{%- for m in messages -%}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content|trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"
            }
            // Only the first system message has a place.
            Self::Llama2 => {
                "{%- set ns = namespace(system='', turn=0) -%}
{%- for m in messages -%}
{%- if m.role == 'system' -%}
{%- set ns.system = '<<SYS>>\\n' + m.content + '\\n<</SYS>>\\n\\n' -%}
{%- elif m.role == 'assistant' -%}
{{- m.content + '</s>' -}}
{%- else -%}
{{- ('<s>' if ns.turn else '') + '[INST] ' + ns.system + m.content + ' [/INST]' -}}
{%- set ns.system = '' -%}{%- set ns.turn = ns.turn + 1 -%}
{%- endif -%}
{%- endfor -%}"
            }
            Self::MistralTekken => {
                "{%- set ns = namespace(system='') -%}
{%- for m in messages -%}
{%- if m.role == 'system' -%}
{%- set ns.system = ns.system + m.content + '\\n\\n' -%}
{%- elif m.role == 'assistant' -%}
{{- m.content|trim + '</s>' -}}
{%- else -%}
{{- '[INST]' + ns.system + m.content + '[/INST]' -}}
{%- set ns.system = '' -%}
{%- endif -%}
{%- endfor -%}"
            }
            Self::Gemma => {
                "{%- set ns = namespace(system='') -%}
{%- for m in messages -%}
{%- if m.role == 'system' -%}
{%- set ns.system = ns.system + m.content|trim + '\\n\\n' -%}
{%- else -%}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' -}}
{%- if m.role == 'user' -%}{{- ns.system -}}{%- set ns.system = '' -%}{%- endif -%}
{{- m.content|trim + '<end_of_turn>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}"
            }
            Self::Phi3 => {
                "{%- for m in messages -%}
{{- '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}"
            }
            Self::Phi4 => {
                "{%- for m in messages -%}
{{- '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant<|im_sep|>' -}}{%- endif -%}"
            }
            Self::GptOss => {
                "{%- for m in messages -%}
{{- '<|start|>' + m.role + '<|message|>' + m.content -}}
{{- '<|return|>' if m.role == 'assistant' else '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}"
            }
            Self::CommandR => {
                "{%- set names = {'system': '<|SYSTEM_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>'} -%}
{%- for m in messages -%}
{{- '<|START_OF_TURN_TOKEN|>' + names.get(m.role, '<|USER_TOKEN|>') -}}
{{- m.content|trim + '<|END_OF_TURN_TOKEN|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' -}}{%- endif -%}"
            }
            Self::Exaone => {
                "{%- for m in messages -%}
{{- '[|' + m.role + '|]' + m.content|trim -}}
{{- '\\n' if m.role == 'user' else '[|endofturn|]\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '[|assistant|]' -}}{%- endif -%}"
            }
            Self::Granite => {
                "{%- for m in messages -%}
{{- '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_of_role|>assistant<|end_of_role|>' -}}{%- endif -%}"
            }
        }
    }
}
