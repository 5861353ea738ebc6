//! Writes GGUF files, as ggml's `docs/gguf.md` has them.

/// What a file says under a key.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// A file in the making.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gguf {
    pub(crate) metadata: Vec<(String, Value)>,
    /// Name, shape (outputs first), ggml's type, bytes.
    pub(crate) tensors: Vec<(String, Vec<usize>, u32, Vec<u8>)>,
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.bytes());
}

impl Gguf {
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.metadata.push((key.to_owned(), value));
    }

    pub(crate) fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensors.push((name.to_owned(), dims.to_vec(), 0, bytes));
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            text(&mut out, key);
            let mut list = |kind: u32, length: usize| {
                out.extend(9u32.to_le_bytes());
                out.extend(kind.to_le_bytes());
                out.extend((length as u64).to_le_bytes());
            };
            match value {
                Value::U32(x) => {
                    out.extend(4u32.to_le_bytes());
                    out.extend(x.to_le_bytes());
                }
                Value::F32(x) => {
                    out.extend(6u32.to_le_bytes());
                    out.extend(x.to_le_bytes());
                }
                Value::Bool(x) => {
                    out.extend(7u32.to_le_bytes());
                    out.push(u8::from(*x));
                }
                Value::Text(x) => {
                    out.extend(8u32.to_le_bytes());
                    text(&mut out, x);
                }
                Value::Texts(all) => {
                    list(8, all.len());
                    all.iter().for_each(|x| text(&mut out, x));
                }
                Value::I32s(all) => {
                    list(5, all.len());
                    all.iter().for_each(|x| out.extend(x.to_le_bytes()));
                }
                Value::F32s(all) => {
                    list(6, all.len());
                    all.iter().for_each(|x| out.extend(x.to_le_bytes()));
                }
            }
        }
        let mut offset = 0u64;
        for (name, dims, kind, bytes) in &self.tensors {
            text(&mut out, name);
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().rev().for_each(|dim| out.extend((*dim as u64).to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += (bytes.len() as u64).next_multiple_of(32);
        }
        for (_, _, _, bytes) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(bytes);
        }
        out
    }
}
