//! What is traced and what is logged, as messages.

use mizzen_proto::inference::{
    LogSettingsRequest, LogSettingsResponse, TraceSettingRequest, TraceSettingResponse,
    log_settings_request, log_settings_response, trace_setting_response,
};
use mizzen_serving_host::{ModelHost, SettingValue, SettingValues, logs, update_logs};

use crate::{error::GrpcError, infer::version};

/// Changes what is traced, if the message says how, and shows it.
pub(crate) fn trace(
    host: &ModelHost,
    message: TraceSettingRequest,
) -> Result<TraceSettingResponse, GrpcError> {
    let model = version(message.model_name);
    let values = message.settings.into_iter().map(|(name, setting)| {
        let value = match setting.value.is_empty() {
            true => SettingValue::Clear,
            false => SettingValue::List(setting.value),
        };
        (name, value)
    });
    let values: SettingValues = values.collect();
    if !values.is_empty() {
        host.update_trace_settings(model.as_deref(), &values)?;
    }
    let settings = host.trace_settings(model.as_deref())?.into_iter().map(|(name, value)| {
        let value = match value {
            SettingValue::List(texts) => texts,
            SettingValue::Text(text) => vec![text],
            SettingValue::Number(number) => vec![number.to_string()],
            SettingValue::Bool(flag) => vec![flag.to_string()],
            SettingValue::Clear => Vec::new(),
        };
        (name.to_owned(), trace_setting_response::SettingValue { value })
    });
    Ok(TraceSettingResponse { settings: settings.collect() })
}

/// Changes what is logged, if the message says how, and shows it.
pub(crate) fn log(message: LogSettingsRequest) -> Result<LogSettingsResponse, GrpcError> {
    use log_settings_request::setting_value::ParameterChoice as Asked;
    use log_settings_response::setting_value::ParameterChoice as Shown;
    let values = message.settings.into_iter().map(|(name, setting)| {
        let value = match setting.parameter_choice {
            None => SettingValue::Clear,
            Some(Asked::BoolParam(flag)) => SettingValue::Bool(flag),
            Some(Asked::Uint32Param(number)) => SettingValue::Number(number.into()),
            Some(Asked::StringParam(text)) => SettingValue::Text(text),
        };
        (name, value)
    });
    let values: SettingValues = values.collect();
    if !values.is_empty() {
        update_logs(&values)?;
    }
    let settings = logs().into_iter().map(|(name, value)| {
        let choice = match value {
            SettingValue::Bool(flag) => Some(Shown::BoolParam(flag)),
            SettingValue::Number(n) => Some(Shown::Uint32Param(u32::try_from(n).unwrap_or(0))),
            SettingValue::Text(text) => Some(Shown::StringParam(text)),
            SettingValue::List(_) | SettingValue::Clear => None,
        };
        let setting = log_settings_response::SettingValue { parameter_choice: choice };
        (name.to_owned(), setting)
    });
    Ok(LogSettingsResponse { settings: settings.collect() })
}
