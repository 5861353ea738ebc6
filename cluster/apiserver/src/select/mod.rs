//! Label and field selectors.

mod fields;
mod labels;

pub(crate) use fields::FieldSelector;
pub(crate) use labels::{LabelSelector, is_key as is_label_key, is_value as is_label_value};

use crate::{ApiError, http::params::Params, resource::Resource, state::Object};

/// What a list, watch or deletecollection asks for.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// Reads `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] naming the part that cannot be read or is not selectable.
    pub(crate) fn of(params: &Params, resource: &Resource) -> Result<Self, ApiError> {
        let labels = LabelSelector::parse(params.get("labelSelector").unwrap_or_default())?;
        let fields = params.get("fieldSelector").unwrap_or_default();
        Ok(Self { labels, fields: FieldSelector::parse(fields, &resource.table)? })
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.labels.matches(&object.labels) && self.fields.matches(object)
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The one name asked for, if any.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields.name()
    }
}
