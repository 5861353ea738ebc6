//! Asks services of the user's own, by Katib's protocol: for suggestions, and when to stop trials.

use std::time::Duration;

use mizzen_proto::katib::{
    ComparisonType, EarlyStoppingRule, EarlyStoppingSpec, Experiment, GetEarlyStoppingRulesRequest,
    GetSuggestionsReply, GetSuggestionsRequest, SetTrialStatusRequest, Trial,
    ValidateAlgorithmSettingsRequest, ValidateEarlyStoppingSettingsRequest,
    early_stopping_client::EarlyStoppingClient, suggestion_client::SuggestionClient,
};
use mizzen_types::{Coded, ErrorCode};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::MESSAGE_BYTES_MAX;

/// How long a connection may take to come about: a service that is there answers within milliseconds.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a call may take: Katib's own limit.
const CALL_TIME_MAX: Duration = Duration::from_secs(60);

/// A service that suggests.
#[derive(Clone)]
pub struct Remote {
    address: String,
    client: SuggestionClient<Channel>,
}

/// Why a service gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The address is not one.
    #[error("`{address}` is not an address; expected `host:port` or `http://host:port`")]
    Address {
        /// What was given.
        address: String,
    },
    /// It refused the settings: asking again cannot help.
    #[error("the {service} at {address} refuses the experiment: {message}")]
    Refused {
        /// What it is.
        service: &'static str,
        /// Where it is.
        address: String,
        /// Its words.
        message: String,
    },
    /// It cannot be reached, or did not answer in time, or could not answer now.
    #[error("the {service} at {address} gives no answer: {message}")]
    Unavailable {
        /// What it is.
        service: &'static str,
        /// Where it is.
        address: String,
        /// What happened.
        message: String,
    },
    /// It answered something else than was asked for.
    #[error("the {service} at {address} gave an answer that is not usable: {what}")]
    Unusable {
        /// What it is.
        service: &'static str,
        /// Where it is.
        address: String,
        /// What is wrong with it.
        what: String,
    },
}

impl Coded for RemoteError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Address { .. } | Self::Refused { .. } => ErrorCode::InvalidArgument,
            Self::Unavailable { .. } | Self::Unusable { .. } => ErrorCode::Unavailable,
        }
    }
}

impl RemoteError {
    /// Whether asking again later may help.
    pub fn may_pass(&self) -> bool {
        self.code() == ErrorCode::Unavailable
    }
}

/// What is asked.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// The experiment, with the settings that the service fed back.
    pub experiment: Experiment,
    /// Its trials so far.
    pub trials: Vec<Trial>,
    /// How many suggestions are wanted.
    pub count: usize,
    /// How many trials there are.
    pub before: usize,
}

impl Remote {
    /// The service at `host:port`; connects with the first call. Must be called within a runtime.
    ///
    /// # Errors
    /// [`RemoteError::Address`].
    pub fn new(address: &str) -> Result<Self, RemoteError> {
        Self::within(address, CALL_TIME_MAX)
    }

    /// The same, for a service that has so long for each answer.
    pub(crate) fn within(address: &str, call_time_max: Duration) -> Result<Self, RemoteError> {
        let endpoint = endpoint(address)?.timeout(call_time_max);
        let client = SuggestionClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self { address: address.to_owned(), client })
    }

    /// Whether this is an address.
    ///
    /// # Errors
    /// [`RemoteError::Address`].
    pub fn check(address: &str) -> Result<(), RemoteError> {
        endpoint(address).map(drop)
    }

    /// Asks whether the service can search with these settings; a service that does not check them
    /// accepts all.
    ///
    /// # Errors
    /// [`RemoteError`]; [`RemoteError::may_pass`] says whether to ask again.
    pub async fn validate(&self, experiment: Experiment) -> Result<(), RemoteError> {
        let request = ValidateAlgorithmSettingsRequest { experiment: Some(experiment) };
        match self.client.clone().validate_algorithm_settings(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::Unimplemented => Ok(()),
            Err(status) => Err(failed(SUGGESTION, &self.address, &status)),
        }
    }

    /// Asks for suggestions: exactly as many as are wanted.
    ///
    /// # Errors
    /// [`RemoteError`]; [`RemoteError::may_pass`] says whether to ask again.
    pub async fn suggest(&self, question: Question) -> Result<GetSuggestionsReply, RemoteError> {
        let Question { experiment, trials, count: want, before } = question;
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let request = GetSuggestionsRequest {
            experiment: Some(experiment),
            trials,
            current_request_number: number(want),
            total_request_number: number(before.saturating_add(want)),
        };
        let reply = self.client.clone().get_suggestions(request).await;
        let reply = reply.map_err(|s| failed(SUGGESTION, &self.address, &s))?.into_inner();
        let got = reply.parameter_assignments.len();
        if got != want {
            return Err(self.unusable(format!("{got} suggestions, where {want} were asked for")));
        }
        Ok(reply)
    }

    /// Why an answer of this service cannot be used.
    pub fn unusable(&self, what: String) -> RemoteError {
        RemoteError::Unusable { service: SUGGESTION, address: self.address.clone(), what }
    }
}

const SUGGESTION: &str = "suggestion service";
const STOPPING: &str = "early stopping service";

/// A service that says when trials are to be stopped.
#[derive(Clone)]
pub struct RemoteStopper {
    address: String,
    client: EarlyStoppingClient<Channel>,
}

impl RemoteStopper {
    /// The service at `host:port`; connects with the first call. Must be called within a runtime.
    ///
    /// # Errors
    /// [`RemoteError::Address`].
    pub fn new(address: &str) -> Result<Self, RemoteError> {
        let client =
            EarlyStoppingClient::new(endpoint(address)?.timeout(CALL_TIME_MAX).connect_lazy())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self { address: address.to_owned(), client })
    }

    /// Asks whether the service can work with these settings; one that does not check them accepts all.
    ///
    /// # Errors
    /// [`RemoteError`]; [`RemoteError::may_pass`] says whether to ask again.
    pub async fn validate(&self, spec: Option<EarlyStoppingSpec>) -> Result<(), RemoteError> {
        let request = ValidateEarlyStoppingSettingsRequest { early_stopping: spec };
        match self.client.clone().validate_early_stopping_settings(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::Unimplemented => Ok(()),
            Err(status) => Err(self.failed(&status)),
        }
    }

    /// Asks for the rules that a new trial is held to; `db_manager` is where the service finds series.
    ///
    /// # Errors
    /// [`RemoteError`]; [`RemoteError::may_pass`] says whether to ask again.
    pub async fn rules(
        &self,
        experiment: Experiment,
        trials: Vec<Trial>,
        db_manager: String,
    ) -> Result<Vec<EarlyStoppingRule>, RemoteError> {
        let request = GetEarlyStoppingRulesRequest {
            experiment: Some(experiment),
            trials,
            db_manager_address: db_manager,
        };
        let reply = self.client.clone().get_early_stopping_rules(request).await;
        let rules = reply.map_err(|s| self.failed(&s))?.into_inner().early_stopping_rules;
        for (place, rule) in rules.iter().enumerate() {
            let wrong = |what: String| {
                let what = format!("early_stopping_rules[{place}].{what}");
                RemoteError::Unusable { service: STOPPING, address: self.address.clone(), what }
            };
            if rule.name.is_empty() {
                return Err(wrong("name is missing; expected the name of a metric".into()));
            }
            if rule.value.trim().parse::<f64>().is_err() {
                return Err(wrong(format!("value is `{}`; expected a number", rule.value)));
            }
            if rule.comparison() == ComparisonType::UnknownComparison {
                let got = rule.comparison;
                return Err(wrong(format!("comparison is {got}; expected EQUAL, LESS or GREATER")));
            }
        }
        Ok(rules)
    }

    /// Tells the service that a trial was stopped.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn stopped(&self, trial: String) -> Result<(), RemoteError> {
        let mut client = self.client.clone();
        let told = client.set_trial_status(SetTrialStatusRequest { trial_name: trial }).await;
        told.map(drop).map_err(|status| self.failed(&status))
    }

    fn failed(&self, status: &Status) -> RemoteError {
        failed(STOPPING, &self.address, status)
    }
}

fn failed(service: &'static str, address: &str, status: &Status) -> RemoteError {
    let (said, address) = (status.message(), address.to_owned());
    let message = if said.is_empty() { format!("{:?}", status.code()) } else { said.to_owned() };
    match status.code() {
        Code::InvalidArgument => RemoteError::Refused { service, address, message },
        _ => RemoteError::Unavailable { service, address, message },
    }
}

pub(crate) fn endpoint(address: &str) -> Result<Endpoint, RemoteError> {
    let wrong = || RemoteError::Address { address: address.to_owned() };
    let (scheme, rest) = address.split_once("://").unwrap_or(("http", address));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let has_port = rest.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok());
    if scheme != "http" || !has_port || !rest.chars().all(plain) {
        return Err(wrong());
    }
    let endpoint = Endpoint::from_shared(format!("http://{rest}")).map_err(|_| wrong())?;
    Ok(endpoint.connect_timeout(CONNECT_TIME_MAX))
}
