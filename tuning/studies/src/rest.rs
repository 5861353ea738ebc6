//! Studies over REST.
//!
//! | route below [`PREFIX`] | does |
//! |---|---|
//! | `POST studies` | creates a study: `{name, parameters, objective: {type}, algorithm: {algorithmName, algorithmSettings}}` |
//! | `GET studies`, `GET studies/{name}`, `DELETE studies/{name}` | all of them; one, with its best trial; deletes it |
//! | `POST studies/{name}/ask` | `{count}`, 1 where nothing is said: new trials |
//! | `POST studies/{name}/trials/{number}/report` | `{step, value}`: what a running trial is worth by now |
//! | `POST studies/{name}/trials/{number}/tell` | `{value}`, or `{state: "failed"}` or `{state: "pruned"}` |
//! | `GET studies/{name}/trials?first=&limit=` | trials by number, 1000 where nothing is said |
//! | `GET studies/{name}/best` | the best trial |
//! | `GET openapi.json` | these calls as an OpenAPI document |
//!
//! Lists are `{items, size}`; errors are `{code, message}`.

mod openapi;
mod routes;
mod wire;

use bytes::Bytes;
use http::{Request, Response};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::{
    routes::{Call, find},
    wire::{Ask, Report, Study, Tell, TrialShown, Trials},
};
use crate::{Studies, StudyError, StudySpec};

/// Where these routes lie.
pub const PREFIX: &str = "/api/tuning/v1/";

/// Trials of one page.
const PAGE_MAX: usize = 1000;

/// Answers one request.
pub async fn answer(studies: &Studies, request: Request<Bytes>) -> Response<Bytes> {
    mizzen_rest::answer(route(studies, &request).await)
}

async fn route(studies: &Studies, request: &Request<Bytes>) -> Result<Value, StudyError> {
    let path = request.uri().path();
    let unknown = || StudyError::NotFound(format!("route `{} {path}`", request.method()));
    let segments = mizzen_rest::segments(request, PREFIX).ok_or_else(unknown)?;
    let (call, names) = find(request.method(), &segments).ok_or_else(unknown)?;
    let name = names.first().copied().unwrap_or_default();
    let number = || {
        let text = names.get(1).copied().unwrap_or_default();
        text.parse::<u64>().map_err(|_| StudyError::NotFound(format!("trial `{text}`")))
    };
    match call {
        Call::Create => Ok(json!(studies.create(body::<StudySpec>(request)?).await?)),
        Call::All => {
            let items = studies.all()?;
            Ok(json!(wire::Studies { size: items.len(), items }))
        }
        Call::Get => {
            let (spec, best) = (studies.get(name)?, studies.best(name)?);
            let best = best.map(|trial| TrialShown::of(&spec, &trial));
            Ok(json!(Study { spec, best }))
        }
        Call::Delete => {
            studies.delete(name).await?;
            Ok(json!({}))
        }
        Call::Ask => {
            let ask = match request.body().is_empty() {
                true => Ask::default(),
                false => body(request)?,
            };
            let spec = studies.get(name)?;
            Ok(json!(Trials::of(&spec, &studies.ask(name, ask.count).await?)))
        }
        Call::Tell => {
            let told = body::<Tell>(request)?.read()?;
            let trial = studies.tell(name, number()?, told).await?;
            Ok(json!(TrialShown::of(&studies.get(name)?, &trial)))
        }
        Call::Report => {
            let Report { step, value } = body(request)?;
            let trial = studies.report(name, number()?, step, value).await?;
            Ok(json!(TrialShown::of(&studies.get(name)?, &trial)))
        }
        Call::Trials => {
            let first = query(request, "first")?.unwrap_or(0);
            let limit = query(request, "limit")?.unwrap_or(PAGE_MAX as u64);
            let limit = usize::try_from(limit).unwrap_or(PAGE_MAX).min(PAGE_MAX);
            Ok(json!(Trials::of(&studies.get(name)?, &studies.trials(name, first, limit)?)))
        }
        Call::Best => {
            let missing =
                || StudyError::NotFound(format!("trial of study `{name}` with a value yet"));
            let best = studies.best(name)?.ok_or_else(missing)?;
            Ok(json!(TrialShown::of(&studies.get(name)?, &best)))
        }
        Call::OpenApi => Ok(openapi::document()),
    }
}

fn body<T: DeserializeOwned>(request: &Request<Bytes>) -> Result<T, StudyError> {
    serde_json::from_slice(request.body()).map_err(|e| StudyError::Body(e.to_string()))
}

fn query(request: &Request<Bytes>, name: &'static str) -> Result<Option<u64>, StudyError> {
    let read = |text: &str| {
        let want = "a number from 0";
        text.parse().map_err(|_| StudyError::Field { field: name, got: text.to_owned(), want })
    };
    mizzen_rest::query(request, name).map(read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_store::Store;

    const STUDY: &str = r#"{"name":"s","parameters":[
        {"name":"x","parameterType":"double","feasibleSpace":{"min":0,"max":1}},
        {"name":"n","parameterType":"int","feasibleSpace":{"min":"1","max":"4"}},
        {"name":"word","parameterType":"categorical","feasibleSpace":{"list":["a",2,true]}}],
        "objective":{"type":"maximize"},"algorithm":{"algorithmName":"random"}}"#;

    async fn call(studies: &Studies, method: &str, route: &str, body: &str) -> (u16, Value) {
        let request = Request::builder().method(method).uri(format!("{PREFIX}{route}"));
        let request = request.body(Bytes::from(body.to_owned())).unwrap();
        let response = answer(studies, request).await;
        (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap())
    }

    #[tokio::test]
    async fn a_study_is_created_asked_told_and_outlives_its_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let studies = Studies::open(Store::open(&path).unwrap()).unwrap();
        assert_eq!(call(&studies, "POST", "studies", STUDY).await.0, 200);
        assert_eq!(call(&studies, "POST", "studies", STUDY).await.0, 200, "the same again");
        let (status, asked) = call(&studies, "POST", "studies/s/ask", r#"{"count":3}"#).await;
        assert_eq!((status, asked["size"].as_u64()), (200, Some(3)), "{asked}");
        let parameters = &asked["items"][2]["parameters"];
        assert!(
            parameters["x"].is_f64() && parameters["n"].is_i64() && parameters["word"].is_string()
        );
        call(&studies, "POST", "studies/s/trials/0/tell", r#"{"value":0.5}"#).await;
        call(&studies, "POST", "studies/s/trials/1/report", r#"{"step":3,"value":0.9}"#).await;
        call(&studies, "POST", "studies/s/trials/1/report", r#"{"step":1,"value":0.1}"#).await;
        let pruned =
            call(&studies, "POST", "studies/s/trials/1/tell", r#"{"state":"pruned"}"#).await;
        assert_eq!(pruned.1["value"], 0.9, "what it was worth last");
        drop(studies);

        let studies = Studies::open(Store::open(&path).unwrap()).unwrap();
        let (_, more) = call(&studies, "POST", "studies/s/ask", "").await;
        assert_eq!(more["items"][0]["number"], 3);
        let (_, all) = call(&studies, "GET", "studies/s/trials", "").await;
        let states: Vec<_> = all["items"].as_array().unwrap().iter().map(|t| &t["state"]).collect();
        assert_eq!(states, ["succeeded", "pruned", "running", "running"]);
        assert_eq!(all["items"][1]["intermediate"][0], json!({"step": 1, "value": 0.1}));
        assert_eq!(call(&studies, "GET", "studies/s/best", "").await.1["number"], 0);
        let (_, page) = call(&studies, "GET", "studies/s/trials?first=1&limit=2", "").await;
        assert_eq!(
            (page["size"].as_u64(), page["items"][0]["number"].as_u64()),
            (Some(2), Some(1))
        );
        assert_eq!(call(&studies, "DELETE", "studies/s", "").await.0, 200);
        assert_eq!(call(&studies, "GET", "studies/s", "").await.0, 404);
    }

    #[tokio::test]
    async fn what_is_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let studies = Studies::open(Store::open(&dir.path().join("db")).unwrap()).unwrap();
        call(&studies, "POST", "studies", STUDY).await;
        call(&studies, "POST", "studies/s/ask", "").await;
        call(&studies, "POST", "studies/s/trials/0/tell", r#"{"value":1}"#).await;
        let other = STUDY.replace("maximize", "minimize");
        let slip = STUDY.replace("random", "radom");
        let bounds = STUDY.replace("\"max\":1}", "\"max\":-1}");
        let name = STUDY.replace("\"s\"", "\"../s\"");
        let grid = r#"{"name":"g","parameters":[{"name":"x","parameterType":"int","feasibleSpace":{"min":1,"max":2}}],"algorithm":{"algorithmName":"grid"}}"#;
        call(&studies, "POST", "studies", grid).await;
        call(&studies, "POST", "studies/g/ask", r#"{"count":2}"#).await;
        #[rustfmt::skip]
        let cases = [
            // what the case shows        method  route                     body                        status  words
            ("another of the name",       "POST", "studies",                other.as_str(),             409,    "another name"),
            ("no such algorithm",         "POST", "studies",                slip.as_str(),              400,    "`random`"),
            ("bounds the wrong way",      "POST", "studies",                bounds.as_str(),            400,    "`x`"),
            ("a name that is a path",     "POST", "studies",                name.as_str(),              400,    "`name`"),
            ("an unknown field",          "POST", "studies",                r#"{"nam":"x"}"#,           400,    "nam"),
            ("no such study",             "POST", "studies/t/ask",          "",                         404,    "`t`"),
            ("too many at once",          "POST", "studies/s/ask",          r#"{"count":9999999999}"#,  400,    "count"),
            ("none at all",               "POST", "studies/s/ask",          r#"{"count":0}"#,           400,    "count"),
            ("no such trial",             "POST", "studies/s/trials/7/tell", r#"{"value":1}"#,          404,    "trial 7"),
            ("told otherwise",            "POST", "studies/s/trials/0/tell", r#"{"value":2}"#,          409,    "succeeded"),
            ("told the same",             "POST", "studies/s/trials/0/tell", r#"{"value":1}"#,          200,    "succeeded"),
            ("neither value nor state",   "POST", "studies/s/trials/0/tell", "{}",                      400,    "`value`"),
            ("a report after the end",    "POST", "studies/s/trials/0/report", r#"{"step":1,"value":1}"#, 409,  "ended"),
            ("nothing left",              "POST", "studies/g/ask",          "",                         400,    "nothing left"),
            ("no value yet",              "GET",  "studies/g/best",         "",                         404,    "value"),
            ("a page that is none",       "GET",  "studies/s/trials?first=x", "",                       400,    "`first`"),
            ("no such route",             "GET",  "nothing",                "",                         404,    "nothing"),
        ];
        for (shows, method, route, body, status, words) in cases {
            let (got, text) = call(&studies, method, route, body).await;
            assert_eq!(got, status, "{shows}: {text}");
            assert!(text.to_string().contains(words), "{shows}: {text}");
        }
    }
}
