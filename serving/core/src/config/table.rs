//! The two macros in which messages and enums of the configuration are declared.
//!
//! A declaration is the Rust type, the protocol's names, what becomes of each field and its line in
//! the reference page, all at once.

/// Declares a message: a struct, and the table of its fields in the protocol's order.
macro_rules! message {
    (
        $(#[$meta:meta])*
        $type:ident = $proto:literal $(, checked by $check:path)? {
            $(
                $(#[doc = $doc:literal])+
                $field:ident: $slot:ty = $name:literal $(of $choice:literal)?, $status:expr;
            )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Default)]
        pub struct $type {
            $(
                $(#[doc = $doc])+
                pub $field: $slot,
            )*
        }

        impl $crate::config::slot::Message for $type {
            const NAME: &'static str = $proto;
            const FIELDS: &'static [$crate::config::FieldInfo] = &[$(
                $crate::config::FieldInfo {
                    name: $name,
                    doc: concat!($($doc),+),
                    status: $status,
                    choice: message!(@choice $($choice)?),
                    kind: <$slot as $crate::config::slot::Slot>::kind,
                    label: <$slot as $crate::config::slot::Slot>::label,
                },
            )*];

            fn slots(&self) -> Vec<&dyn $crate::config::slot::Slot> {
                vec![$(&self.$field),*]
            }

            fn slots_mut(&mut self) -> Vec<&mut dyn $crate::config::slot::Slot> {
                vec![$(&mut self.$field),*]
            }

            $(
                fn check(
                    &self,
                    place: $crate::config::slot::Place<'_>,
                ) -> $crate::config::slot::Read<()> {
                    $check(self, place)
                }
            )?
        }

        impl $crate::config::slot::Value for $type {
            const OMITTED: bool = true;

            fn kind() -> $crate::config::Kind {
                $crate::config::Kind::Message {
                    name: $proto,
                    fields: <Self as $crate::config::slot::Message>::FIELDS,
                }
            }

            fn read(
                reader: &mut $crate::config::slot::Reader,
                place: $crate::config::slot::Place<'_>,
                raw: &$crate::config::text::Value,
            ) -> $crate::config::slot::Read<Self> {
                let raw = $crate::config::slot::message(place, raw)?;
                $crate::config::slot::read_message(reader, place, raw)
            }

            fn write(&self) -> serde_json::Value {
                $crate::config::slot::write_message(self)
            }

            fn unset() -> serde_json::Value {
                serde_json::Value::Null
            }

            fn says_nothing(&self) -> bool {
                $crate::config::slot::is_blank(self)
            }
        }
    };
    (@choice) => { None };
    (@choice $choice:literal) => { Some($choice) };
}

/// Declares an enum with the protocol's names and numbers; the first is the default.
macro_rules! words {
    (
        $(#[$meta:meta])*
        $type:ident {
            $(#[doc = $first_doc:literal])+
            $first:ident = $first_name:literal $first_number:literal,
            $(
                $(#[doc = $doc:literal])+
                $variant:ident = $name:literal $number:literal,
            )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub enum $type {
            $(#[doc = $first_doc])+
            #[default]
            $first,
            $(
                $(#[doc = $doc])+
                $variant,
            )*
        }

        impl $type {
            const NAMES: &'static [&'static str] = &[$first_name, $($name),*];

            /// Triton's name.
            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::$first => $first_name,
                    $(Self::$variant => $name,)*
                }
            }
        }

        impl $crate::config::slot::Value for $type {
            fn kind() -> $crate::config::Kind {
                $crate::config::Kind::Word(Self::NAMES)
            }

            fn read(
                reader: &mut $crate::config::slot::Reader,
                place: $crate::config::slot::Place<'_>,
                raw: &$crate::config::text::Value,
            ) -> $crate::config::slot::Read<Self> {
                let names = [
                    ($first_name, $first_number, Self::$first),
                    $(($name, $number, Self::$variant)),*
                ];
                let expected = $crate::config::slot::one_of(Self::NAMES);
                $crate::config::slot::read_word(reader, place, raw, &names, &expected)
            }

            fn write(&self) -> serde_json::Value {
                serde_json::Value::from(self.as_str())
            }

            fn unset() -> serde_json::Value {
                serde_json::Value::from($first_name)
            }
        }
    };
}
