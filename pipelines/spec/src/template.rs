//! Placeholders in commands, arguments, constants and metadata, parsed once.
//!
//! A template is text with holes. Filling it is one pass over the pieces, so that a value which
//! itself looks like a placeholder stays what it is.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Text with holes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Template(pub Vec<Piece>);

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Piece {
    /// Literal text.
    Text(String),
    /// A hole.
    Hole(Placeholder),
}

/// What a hole stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placeholder {
    /// `{{$}}`: the whole ExecutorInput as JSON.
    ExecutorInput,
    /// `{{$.inputs.parameters['x']}}`.
    InputParameter(String),
    /// `{{$.inputs.artifacts['x']…}}`.
    InputArtifact(String, ArtifactField),
    /// `{{$.outputs.parameters['x'].output_file}}`.
    OutputParameterFile(String),
    /// `{{$.outputs.artifacts['x']…}}`.
    OutputArtifact(String, ArtifactField),
    /// `{{$.outputs.output_file}}` and `{{$.outputMetadataUri}}`.
    OutputFile,
    /// `{{$.pipeline_job_name}}`.
    JobName,
    /// `{{$.pipeline_job_resource_name}}`.
    JobResourceName,
    /// `{{$.pipeline_job_uuid}}`.
    JobId,
    /// `{{$.pipeline_task_name}}`.
    TaskName,
    /// `{{$.pipeline_task_uuid}}`.
    TaskId,
    /// `{{$.pipeline_root}}`.
    Root,
    /// `{{$.pipeline_job_create_time_utc}}` and, as runs here start at once, `…_schedule_time_utc`.
    CreateTime,
    /// `{{$.workspace_path}}` and the literal `/kfp-workspace`.
    Workspace,
}

/// Which part of an artifact a hole shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArtifactField {
    /// The artifact list as JSON.
    Whole,
    /// `.uri`
    Uri,
    /// `.path`: the URI as a local path.
    Path,
    /// `.metadata` or `.metadata['k']`.
    Metadata(Option<String>),
}

/// One element of a command line; `IfPresent` may stand for none or several arguments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Argument {
    /// Plain text with holes.
    Text(Template),
    /// The parts, joined without a separator.
    Concat(Vec<Argument>),
    /// One of two branches, by whether the input has a value.
    IfPresent {
        /// The input's name.
        input: String,
        /// Used where it has one.
        then: Vec<Argument>,
        /// Used where it has none.
        otherwise: Vec<Argument>,
    },
}

/// Where KFP mounts the workspace; components name it literally.
const WORKSPACE_MOUNT: &str = "/kfp-workspace";

impl Template {
    /// Parses text.
    ///
    /// # Errors
    /// The placeholder that is not known, or not closed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("{{$") {
            let Some(length) = rest[start..].find("}}") else {
                return Err(format!("placeholder `{}` without its `}}}}`", clip(&rest[start..])));
            };
            push_text(&mut pieces, &rest[..start]);
            let inner = &rest[start + 3..start + length];
            let hole = placeholder(inner.trim())
                .ok_or_else(|| format!("placeholder `{{{{${}}}}}`", clip(inner)))?;
            pieces.push(Piece::Hole(hole));
            rest = &rest[start + length + 2..];
        }
        push_text(&mut pieces, rest);
        Ok(Self(pieces))
    }

    /// The text, if there is no hole in it.
    pub fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The holes, in order.
    pub fn holes(&self) -> impl Iterator<Item = &Placeholder> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Hole(hole) => Some(hole),
            Piece::Text(_) => None,
        })
    }
}

impl Argument {
    /// Parses one element of a command line: a template, or JSON text of `Concat` / `IfPresent`.
    ///
    /// # Errors
    /// What is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let trimmed = text.trim_start();
        if trimmed.starts_with('{')
            && let Ok(value @ Value::Object(_)) = serde_json::from_str::<Value>(text)
            && (value.get("Concat").is_some() || value.get("IfPresent").is_some())
        {
            return structured(&value);
        }
        Template::parse(text).map(Self::Text)
    }

    /// Every hole in it, in order.
    pub fn holes(&self) -> Vec<&Placeholder> {
        match self {
            Self::Text(template) => template.holes().collect(),
            Self::Concat(parts) => parts.iter().flat_map(Self::holes).collect(),
            Self::IfPresent { then, otherwise, .. } => {
                then.iter().chain(otherwise).flat_map(Self::holes).collect()
            }
        }
    }
}

fn structured(value: &Value) -> Result<Argument, String> {
    let object = match value {
        Value::String(text) => return Argument::parse(text),
        Value::Object(object) if object.len() == 1 => object,
        other => return Err(format!("command element `{}`", clip(&other.to_string()))),
    };
    if let Some(Value::Array(parts)) = object.get("Concat") {
        return parts.iter().map(structured).collect::<Result<_, _>>().map(Argument::Concat);
    }
    let Some(Value::Object(branch)) = object.get("IfPresent") else {
        return Err(format!("command element `{}`", clip(&value.to_string())));
    };
    let input = match branch.get("InputName") {
        Some(Value::String(name)) => name.clone(),
        _ => return Err("`IfPresent` without its `InputName`".to_owned()),
    };
    let side = |name: &str| match branch.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => items.iter().map(structured).collect(),
        Some(one) => structured(one).map(|one| vec![one]),
    };
    Ok(Argument::IfPresent { input, then: side("Then")?, otherwise: side("Else")? })
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    for (i, part) in text.split(WORKSPACE_MOUNT).enumerate() {
        if i > 0 {
            pieces.push(Piece::Hole(Placeholder::Workspace));
        }
        if !part.is_empty() {
            pieces.push(Piece::Text(part.to_owned()));
        }
    }
}

fn placeholder(inner: &str) -> Option<Placeholder> {
    if inner.is_empty() {
        return Some(Placeholder::ExecutorInput);
    }
    let path = inner.strip_prefix('.')?;
    let keyed = |prefix: &str| path.strip_prefix(prefix).and_then(quoted);
    if let Some((name, "")) = keyed("inputs.parameters") {
        return Some(Placeholder::InputParameter(name));
    }
    if let Some((name, ".output_file" | ".outputFile")) = keyed("outputs.parameters") {
        return Some(Placeholder::OutputParameterFile(name));
    }
    if let Some((name, rest)) = keyed("inputs.artifacts") {
        return artifact_field(rest).map(|field| Placeholder::InputArtifact(name, field));
    }
    if let Some((name, rest)) = keyed("outputs.artifacts") {
        return artifact_field(rest).map(|field| Placeholder::OutputArtifact(name, field));
    }
    Some(match path {
        "outputs.output_file" | "outputs.outputFile" | "outputMetadataUri" => {
            Placeholder::OutputFile
        }
        "pipeline_job_name" => Placeholder::JobName,
        "pipeline_job_resource_name" => Placeholder::JobResourceName,
        "pipeline_job_uuid" => Placeholder::JobId,
        "pipeline_task_name" => Placeholder::TaskName,
        "pipeline_task_uuid" => Placeholder::TaskId,
        "pipeline_root" => Placeholder::Root,
        "pipeline_job_create_time_utc" | "pipeline_job_schedule_time_utc" => {
            Placeholder::CreateTime
        }
        "workspace_path" => Placeholder::Workspace,
        _ => return None,
    })
}

fn artifact_field(rest: &str) -> Option<ArtifactField> {
    match rest {
        "" => Some(ArtifactField::Whole),
        ".uri" => Some(ArtifactField::Uri),
        ".path" => Some(ArtifactField::Path),
        ".metadata" => Some(ArtifactField::Metadata(None)),
        _ => match quoted(rest.strip_prefix(".metadata")?)? {
            (key, "") => Some(ArtifactField::Metadata(Some(key))),
            _ => None,
        },
    }
}

/// `['name']rest` or `["name"]rest`.
fn quoted(text: &str) -> Option<(String, &str)> {
    let inside = text.strip_prefix('[')?;
    let quote = inside.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let close = format!("{quote}]");
    let end = inside[1..].find(&close)?;
    Some((inside[1..=end].to_owned(), &inside[1 + end + close.len()..]))
}

fn clip(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_recognised_and_others_refused() {
        use Placeholder::*;
        let name = || "x".to_owned();
        #[rustfmt::skip]
        let cases = [
            ("{{$}}",                                      Some(ExecutorInput)),
            ("{{$.inputs.parameters['x']}}",               Some(InputParameter(name()))),
            ("{{$.inputs.parameters[\"x\"]}}",             Some(InputParameter(name()))),
            ("{{$.inputs.artifacts['x'].path}}",           Some(InputArtifact(name(), ArtifactField::Path))),
            ("{{$.inputs.artifacts['x'].metadata['k']}}",  Some(InputArtifact(name(), ArtifactField::Metadata(Some("k".into()))))),
            ("{{$.outputs.parameters['x'].output_file}}",  Some(OutputParameterFile(name()))),
            ("{{$.outputs.artifacts['x'].uri}}",           Some(OutputArtifact(name(), ArtifactField::Uri))),
            ("{{$.pipeline_job_name}}",                    Some(JobName)),
            ("{{$.json_escape[1]}}",                       None),
            ("{{$.inputs.parameters['x'",                  None),
        ];
        for (text, want) in cases {
            let got = Template::parse(text).ok().and_then(|t| t.holes().next().cloned());
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn structured_arguments_nest() {
        let text = r#"{"IfPresent":{"InputName":"a","Then":["--a",{"Concat":["x=","{{$.inputs.parameters['a']}}"]}]}}"#;
        let Argument::IfPresent { input, then, otherwise } = Argument::parse(text).unwrap() else {
            panic!("not structured")
        };
        assert_eq!((input.as_str(), then.len(), otherwise.len()), ("a", 2, 0));
        assert!(matches!(&then[1], Argument::Concat(parts) if parts.len() == 2));
    }

    #[test]
    fn json_that_is_no_structure_is_text() {
        let text = r#"{"lr": 0.1}"#;
        let Argument::Text(template) = Argument::parse(text).unwrap() else { panic!() };
        assert_eq!(template.literal(), Some(text));
    }
}
