//! Asks a suggestion service of the user's own, by Katib's protocol.

use std::time::Duration;

use mizzen_proto::katib::{
    Experiment, GetSuggestionsReply, GetSuggestionsRequest, Trial,
    ValidateAlgorithmSettingsRequest, suggestion_client::SuggestionClient,
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
    #[error("the suggestion service at {address} refuses the experiment: {message}")]
    Refused {
        /// Where it is.
        address: String,
        /// Its words.
        message: String,
    },
    /// It cannot be reached, or did not answer in time, or could not answer now.
    #[error("the suggestion service at {address} gives no suggestions: {message}")]
    Unavailable {
        /// Where it is.
        address: String,
        /// What happened.
        message: String,
    },
    /// It answered something else than was asked for.
    #[error("the suggestion service at {address} gave {got} suggestions; {want} were asked for")]
    Count {
        /// Where it is.
        address: String,
        /// How many came.
        got: usize,
        /// How many were wanted.
        want: usize,
    },
}

impl Coded for RemoteError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Address { .. } | Self::Refused { .. } => ErrorCode::InvalidArgument,
            Self::Unavailable { .. } | Self::Count { .. } => ErrorCode::Unavailable,
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
        let endpoint = endpoint(address)?.connect_timeout(CONNECT_TIME_MAX).timeout(CALL_TIME_MAX);
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
            Err(status) => Err(self.failed(&status)),
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
        let reply = reply.map_err(|status| self.failed(&status))?.into_inner();
        let got = reply.parameter_assignments.len();
        if got != want {
            return Err(RemoteError::Count { address: self.address.clone(), got, want });
        }
        Ok(reply)
    }

    fn failed(&self, status: &Status) -> RemoteError {
        let address = self.address.clone();
        let said = status.message();
        let message =
            if said.is_empty() { format!("{:?}", status.code()) } else { said.to_owned() };
        match status.code() {
            Code::InvalidArgument => RemoteError::Refused { address, message },
            _ => RemoteError::Unavailable { address, message },
        }
    }
}

fn endpoint(address: &str) -> Result<Endpoint, RemoteError> {
    let wrong = || RemoteError::Address { address: address.to_owned() };
    let (scheme, rest) = address.split_once("://").unwrap_or(("http", address));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let has_port = rest.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok());
    if scheme != "http" || !has_port || !rest.chars().all(plain) {
        return Err(wrong());
    }
    Endpoint::from_shared(format!("http://{rest}")).map_err(|_| wrong())
}
