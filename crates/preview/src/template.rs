//! The CloudFormation template as `just deploy` fills it in: with a package, so that the function is attached, and with
//! the paths of `redirect.toml`.

use anyhow::{Context, Result};
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Value, json};

/// Without effect on this machine: it has no certificate, no firewall, no cache and one origin, and loopback needs no
/// compression.
const NO_EFFECT: [&str; 13] = [
    "Aliases",
    "CachePolicyId",
    "Comment",
    "Compress",
    "Enabled",
    "ErrorCachingMinTTL",
    "HttpVersion",
    "IPV6Enabled",
    "PriceClass",
    "TargetOriginId",
    "ViewerCertificate",
    "ViewerProtocolPolicy",
    "WebACLId",
];

/// The template as JSON, without [`NO_EFFECT`]. `!Ref A` to a resource is `"A"`, `!GetAtt A.B` is `"A.B"`.
pub(super) fn resolved(text: &str, current_path: &str, beta_path: &str) -> Result<Value> {
    let documents = Yaml::load_from_str(text)?;
    let document = documents.first().context("the file is empty")?;
    Ok(Paths { current_path, beta_path }.resolve(document).unwrap_or_default())
}

struct Paths<'a> {
    current_path: &'a str,
    beta_path: &'a str,
}

impl Paths<'_> {
    /// `None` is `AWS::NoValue`, as if the node were absent.
    fn resolve(&self, node: &Yaml<'_>) -> Option<Value> {
        Some(match node {
            Yaml::Value(Scalar::Integer(number)) => json!(number),
            Yaml::Value(Scalar::String(text)) => json!(text),
            Yaml::Sequence(items) => items.iter().filter_map(|item| self.resolve(item)).collect(),
            Yaml::Mapping(entries) => {
                let entries = entries.iter().filter_map(|(key, entry)| Some((key.as_str()?, self.resolve(entry)?)));
                entries.filter(|(key, _)| !NO_EFFECT.contains(key)).collect()
            }
            Yaml::Tagged(tag, argument) => return self.intrinsic(&tag.suffix, argument),
            _ => Value::Null,
        })
    }

    /// The value of an intrinsic function. An unknown one becomes an object, which no field of the preview accepts.
    fn intrinsic(&self, name: &str, argument: &Yaml<'_>) -> Option<Value> {
        let text = argument.as_str().unwrap_or_default();
        let branches = argument.as_sequence().map_or(&[][..], Vec::as_slice);
        match (name, text, branches) {
            ("Ref", "AWS::NoValue", _) => None,
            ("Ref", "CurrentPath", _) => Some(json!(self.current_path)),
            ("Ref", "BetaPath", _) => Some(json!(self.beta_path)),
            ("Ref" | "GetAtt", _, _) => Some(json!(text)),
            ("Sub", _, []) => {
                let text = text.replace("${CurrentPath}", self.current_path).replace("${BetaPath}", self.beta_path);
                Some(if text.contains("${") { json!({ name: text }) } else { json!(text) })
            }
            ("If", _, [condition, then, _]) if condition.as_str() == Some("IsAttached") => self.resolve(then),
            ("If", _, [condition, then, otherwise]) if condition.as_str() == Some("AtRoot") => {
                self.resolve(if self.current_path == "/" { then } else { otherwise })
            }
            _ => Some(json!({ name: null })),
        }
    }
}
