//! `mizzen get`

use std::io::Write;

use clap::Args;
use kube::Client;
use mizzen_types::ErrorCode;
use serde_json::Value;

use crate::{
    connect::Target,
    failure::{Failure, Result},
    global::{Global, Output, block_on},
    resources::{self, Resource},
    table,
};

/// List objects, or show one
///
/// Talks to `mizzen up` on this machine, to --server, or to the cluster of --context. `kubectl get` shows
/// the same.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// Kind, in any of its names: experiments, trial, isvc, pipelineruns, jobs, pods, …
    #[arg(value_name = "KIND[/NAME]")]
    kind: String,
    /// Name; all of the kind where absent
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only objects with these labels
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
    /// How to print
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    target: Target,
}

/// Asks for a table as `kubectl` does, with the objects' own columns.
const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

impl Get {
    pub(crate) fn run(&self, global: &Global, out: &mut dyn Write) -> Result<()> {
        global.init_logs("warn")?;
        block_on(1, async {
            let client = self.target.client().await?;
            let (kind, name) = resources::split(&self.kind, self.name.as_deref())?;
            let resource = resources::find(&client, kind).await?;
            let accept = if self.output == Output::Json { "application/json" } else { AS_TABLE };
            let answer = self.fetch(&client, &resource, name, accept).await?;
            match self.output {
                Output::Json => writeln!(out, "{answer:#}").map_err(Failure::from),
                Output::Text => print(out, &answer, &resource),
            }
        })
    }

    async fn fetch(
        &self,
        client: &Client,
        resource: &Resource,
        name: Option<&str>,
        accept: &str,
    ) -> Result<Value> {
        let mut path = resource.path(&self.target.namespace, name);
        if let Some(selector) = &self.selector {
            path = format!("{path}?labelSelector={}", rest_escape(selector));
        }
        let request = http::Request::get(path).header("accept", accept).body(Vec::new());
        let request =
            request.map_err(|e| Failure::new(ErrorCode::InvalidArgument, e.to_string()))?;
        client
            .request(request)
            .await
            .map_err(|e| Failure::kube(format!("cannot get {}", resource.plural), e))
    }
}

/// Percent-encodes what a query cannot hold as it is.
pub(crate) fn rest_escape(text: &str) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.~".contains(b);
    text.bytes()
        .map(|b| if plain(&b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

fn print(out: &mut dyn Write, answer: &Value, resource: &Resource) -> Result<()> {
    let Some(columns) = answer["columnDefinitions"].as_array() else {
        return writeln!(out, "{answer:#}").map_err(Failure::from); // a server without tables
    };
    // Columns of lower priority are for `-o wide` elsewhere; they would not fit here either.
    let shown: Vec<usize> =
        (0..columns.len()).filter(|i| columns[*i]["priority"].as_i64().unwrap_or(0) == 0).collect();
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    };
    let header: Vec<String> =
        shown.iter().map(|i| text(&columns[*i]["name"]).to_uppercase()).collect();
    let rows = answer["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return writeln!(std::io::stderr(), "no {} found", resource.plural).map_err(Failure::from);
    }
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| shown.iter().map(|i| text(&row["cells"][*i])).collect()).collect();
    table::print(out, &header, &rows)
}
