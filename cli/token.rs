//! `mizzen token`

use std::{
    fs::File,
    io::{Read as _, Write},
};

use clap::Args;
use mizzen_serving_auth::{TokenHash, token_text};

use crate::failure::{Failure, Result};

/// Make a token for the model server's `--auth-file`
///
/// Prints the token on stdout, once and nowhere else, and on stderr the entry of the policy file that
/// knows it by its hash.
#[derive(Debug, Args)]
pub(crate) struct Token {
    /// Whose it is, for logs and messages
    #[arg(value_name = "NAME")]
    name: String,
}

impl Token {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Result<()> {
        let mut random = [0; 32];
        File::open("/dev/urandom")
            .and_then(|mut source| source.read_exact(&mut random))
            .map_err(|e| Failure::from(e).context("cannot read `/dev/urandom`"))?;
        let token = token_text(random);
        writeln!(out, "{token}")?;
        let entry = format!(
            "[[tokens]]\nname = {:?}\nsha256 = \"{}\"\nallow = [{{ categories = [\"health\", \"metadata\", \"inference\"] }}]\n",
            self.name,
            TokenHash::of(token.as_bytes()),
        );
        std::io::stderr().write_all(entry.as_bytes())?;
        Ok(())
    }
}
