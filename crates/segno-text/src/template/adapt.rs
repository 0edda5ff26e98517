//! What shapes of messages a template understands, found out by trying, and messages brought into them.

use serde_json::{Map, Value as Json, json};

use super::{ChatTemplate, Message, RenderOptions};

/// Text that no template writes by itself.
const PROBE: &str = "segno-probe-7f3a";

/// What a template can take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shapes {
    /// Message content as a string.
    text: bool,
    /// Message content as a list of parts.
    parts: bool,
    /// Tool-call arguments as an object.
    arguments_object: bool,
    /// Tool-call arguments as JSON text.
    arguments_text: bool,
    /// Tools are written out.
    pub(super) tools: bool,
    /// `enable_thinking` changes something.
    pub(super) thinking: bool,
}

impl Default for Shapes {
    /// What nothing is converted for.
    fn default() -> Self {
        Self { text: true, parts: true, arguments_object: true, arguments_text: true, tools: false, thinking: false }
    }
}

impl Shapes {
    /// Renders small conversations with a fresh template and looks at what comes out.
    pub(super) fn probe(template: &ChatTemplate) -> Self {
        let options = |kwargs: Json| RenderOptions {
            add_generation_prompt: true,
            kwargs: match kwargs {
                Json::Object(kwargs) => kwargs,
                _ => Map::new(),
            },
            ..RenderOptions::default()
        };
        let render = |messages: &[Message], kwargs: Json| {
            let values: Vec<_> = messages.iter().map(Message::to_value).collect();
            template.render_values(&values, &options(kwargs), true).map(|(text, _)| text).unwrap_or_default()
        };
        let user = |content: Json| Message { content, ..Message::new("user", "") };
        let text = render(&[user(json!(PROBE))], json!({}));
        let parts = render(&[user(json!([{"type": "text", "text": PROBE}]))], json!({}));
        let call = |arguments: Json| {
            let call = json!([{
                "id": "call00001",
                "type": "function",
                "function": {"name": "probe", "arguments": arguments},
            }]);
            let mut assistant = Message { content: Json::Null, ..Message::new("assistant", "") };
            assistant.extra.insert("tool_calls".into(), call);
            render(&[user(json!("x")), assistant], json!({}))
        };
        let object = call(json!({PROBE: "value"}));
        let string = call(json!(format!("{{\"{PROBE}\": \"value\"}}")));
        let tool = json!({"type": "function", "function": {
            "name": PROBE,
            "description": "",
            "parameters": {"type": "object", "properties": {}, "required": []},
        }});
        let tools = render(&[user(json!("x"))], json!({"tools": [tool]}));
        let thinking = |on: bool| render(&[user(json!("x"))], json!({"enable_thinking": on}));
        Self {
            text: text.contains(PROBE),
            // A template that only knows text prints the list as Python would.
            parts: parts.contains(PROBE) && !parts.contains(&format!("'text': '{PROBE}'")),
            // Objects that are concatenated come out with Python's quotes, text that goes through `tojson` with
            // escaped ones.
            arguments_object: object.contains(PROBE) && !object.contains(&format!("'{PROBE}'")),
            arguments_text: string.contains(&format!("{{\"{PROBE}\": \"value\"}}")),
            tools: tools.contains(PROBE),
            thinking: thinking(true) != thinking(false),
        }
    }

    /// A message in the shape the template takes.
    pub(super) fn adapt(&self, message: &Message) -> Message {
        let mut message = message.clone();
        match &message.content {
            Json::Array(parts) if self.text && !self.parts => {
                if let Some(text) = join_text(parts) {
                    message.content = Json::String(text);
                }
            }
            Json::String(text) if self.parts && !self.text => {
                message.content = json!([{"type": "text", "text": text}]);
            }
            _ => {}
        }
        if let Some(Json::Array(calls)) = message.extra.get_mut("tool_calls") {
            for call in calls {
                let call = match call.get_mut("function") {
                    Some(function) => function,
                    None => call,
                };
                if let Some(arguments) = call.get_mut("arguments") {
                    self.adapt_arguments(arguments);
                }
            }
        }
        message
    }

    fn adapt_arguments(&self, arguments: &mut Json) {
        match arguments {
            Json::String(text) if self.arguments_object && !self.arguments_text => {
                // Text that is no JSON object stays text: the model wrote it, and should see it again.
                if let Ok(object @ Json::Object(_)) = serde_json::from_str(text) {
                    *arguments = object;
                }
            }
            Json::Object(_) if self.arguments_text && !self.arguments_object => {
                *arguments = Json::String(arguments.to_string());
            }
            _ => {}
        }
    }
}

/// The text parts, one below the other; `None` if there are other parts, which only the template can place.
fn join_text(parts: &[Json]) -> Option<String> {
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Json::String(text) => texts.push(text.as_str()),
            part if part.get("type").is_none_or(|kind| kind == "text") => {
                texts.push(part.get("text")?.as_str()?);
            }
            _ => return None,
        }
    }
    Some(texts.join("\n"))
}
