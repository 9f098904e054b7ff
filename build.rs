//! Validates `redirect.toml` and the secrets, and writes them to the files that the crate includes.

#![allow(dead_code, unreachable_pub)] // The build uses only a part of the crate's modules.

#[path = "src/preview_token.rs"]
mod preview_token;
#[path = "crates/flag-data/src/sdk_key.rs"]
mod sdk_key;
#[path = "src/settings.rs"]
mod settings;

use preview_token::{PREVIEW_TOKEN_VARIABLE, PreviewToken};
use sdk_key::{SDK_KEY_VARIABLE, SdkKey};
use settings::{FIELDS, Settings};
use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

type Error = Box<dyn std::error::Error>;

fn main() {
    println!("cargo::rerun-if-changed=redirect.toml");
    println!("cargo::rerun-if-changed=src/settings.rs");
    println!("cargo::rerun-if-changed=src/preview_token.rs");
    println!("cargo::rerun-if-changed=crates/flag-data/src/sdk_key.rs");
    println!("cargo::rerun-if-env-changed={SDK_KEY_VARIABLE}");
    println!("cargo::rerun-if-env-changed={PREVIEW_TOKEN_VARIABLE}");
    if let Err(error) = compile_in() {
        println!("cargo::error={error}");
        std::process::exit(1);
    }
}

fn compile_in() -> Result<(), Error> {
    let fields = fields(&fs::read_to_string("redirect.toml").map_err(|error| format!("redirect.toml: {error}"))?)?;
    Settings::read(|field| fields.get(field).cloned(), |_| None)?;
    let secret = |variable| env::var_os(variable).unwrap_or_default().to_string_lossy().into_owned();
    let key = SdkKey::parse(&secret(SDK_KEY_VARIABLE))?;
    let token = PreviewToken::parse(&secret(PREVIEW_TOKEN_VARIABLE))?;

    let out = PathBuf::from(env::var("OUT_DIR")?);
    let lines: Vec<_> = fields.iter().map(|(field, value)| format!("{field}={value}")).collect();
    fs::write(out.join("settings.txt"), lines.join("\n"))?;
    write_private(&out.join("sdk-key.txt"), key.as_ref().map_or("", SdkKey::reveal))?;
    write_private(&out.join("preview-token.txt"), token.as_ref().map_or("", PreviewToken::reveal))?;
    Ok(())
}

/// The fields of the file as text. Unknown fields, tables and lists are errors.
fn fields(file: &str) -> Result<BTreeMap<String, String>, Error> {
    let table: toml::Table = file.parse().map_err(|error| format!("redirect.toml: {error}"))?;
    table
        .into_iter()
        .map(|(field, value)| {
            if !FIELDS.contains(&field.as_str()) {
                return Err(
                    format!("redirect.toml: {field} is not a setting; expected one of {}", FIELDS.join(", ")).into()
                );
            }
            let text = match value {
                toml::Value::String(text) if !text.contains('\n') => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(truth) => truth.to_string(),
                other => {
                    return Err(format!(
                        "redirect.toml: {field} is of type {}; expected a string, a number or a boolean",
                        other.type_str()
                    )
                    .into());
                }
            };
            Ok((field, text))
        })
        .collect()
}

/// Readable only by the owner: the file contains a secret.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}
