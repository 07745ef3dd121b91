//! Bearer tokens, each with a role.

use std::{fmt, fs, io, path::Path, str::FromStr, sync::Arc};

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// Shorter tokens can be guessed.
const SHORTEST: usize = 16;
const LONGEST_NAME: usize = 64;

/// The rights of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// May read.
    Viewer,
    /// May do everything.
    Operator,
}

/// The holder of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The holder's rights.
    pub role: Role,
    /// The name of the token, if it has one. The audit log shows it.
    pub name: Option<Arc<str>>,
}

/// The tokens that a server accepts. Only their digests are kept.
///
/// ```
/// use leveret_serve::{Role, Tokens};
///
/// let tokens: Tokens = "viewer:an-unguessable-word,operator:anna=another-unguessable-word".parse()?;
/// let anna = tokens.holder("another-unguessable-word").expect("it is one of them");
/// assert_eq!((anna.role, anna.name.as_deref()), (Role::Operator, Some("anna")));
/// assert_eq!(tokens.holder("a guess"), None);
/// # Ok::<_, leveret_serve::TokensError>(())
/// ```
#[derive(Clone, Default)]
pub struct Tokens(Vec<(Holder, [u8; 32])>);

/// Tokens that cannot be used. The error does not contain a token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokensError {
    /// A token does not have the required form.
    #[error(
        "token {number}: expected viewer:TOKEN or operator:TOKEN, or operator:NAME=TOKEN for the audit log, with a token of at \
         least {SHORTEST} visible characters"
    )]
    Form {
        /// The token's position, from 1.
        number: usize,
    },
    /// There is no token, which would give every client access.
    #[error("there is no token in it")]
    None,
    /// The file cannot be read.
    #[error("cannot read the file of tokens")]
    File(#[from] io::Error),
}

impl Tokens {
    /// Reads a file with one token a line.
    ///
    /// # Errors
    ///
    /// [`TokensError`].
    pub fn read(path: &Path) -> Result<Self, TokensError> {
        let content = fs::read(path)?;
        let text = std::str::from_utf8(leveret::without_bom(&content));
        text.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?.parse()
    }

    /// Returns whether there is no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The holder of a token, if it is accepted. The time that this takes does not depend on the tokens.
    #[must_use]
    pub fn holder(&self, token: &str) -> Option<&Holder> {
        let digest = digest(token);
        let (mut found, mut place) = (Choice::from(0), 0u64);
        for (number, (_, known)) in (0..).zip(&self.0) {
            let same = known.ct_eq(&digest);
            place.conditional_assign(&number, same);
            found |= same;
        }
        let (holder, _) = self.0.get(usize::try_from(place).ok()?)?;
        bool::from(found).then_some(holder)
    }
}

/// Reads `role:token` or `role:name=token`, separated by commas or line breaks. A line that begins with `#` is a comment. At
/// least one token is required.
impl FromStr for Tokens {
    type Err = TokensError;

    fn from_str(text: &str) -> Result<Self, TokensError> {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let items = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|item| !item.is_empty());
        let tokens = items.zip(1..).map(|(item, number)| token(item).ok_or(TokensError::Form { number }));
        let tokens: Vec<_> = tokens.collect::<Result<_, _>>()?;
        if tokens.is_empty() { Err(TokensError::None) } else { Ok(Self(tokens)) }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

fn token(item: &str) -> Option<(Holder, [u8; 32])> {
    let (role, rest) = item.split_once(':')?;
    let role = match role {
        "viewer" => Role::Viewer,
        "operator" => Role::Operator,
        _ => return None,
    };
    let (name, token) = named(rest);
    let usable = token.len() >= SHORTEST && token.bytes().all(|byte| byte.is_ascii_graphic());
    usable.then(|| (Holder { role, name: name.map(Into::into) }, digest(token)))
}

/// Splits the name from the token. A text before `=` is a name only if a token follows, because base64 may end in `=`.
fn named(text: &str) -> (Option<&str>, &str) {
    let is_name = |name: &str| {
        let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-@".contains(&byte);
        (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(of_name)
    };
    match text.split_once('=') {
        Some((name, token)) if is_name(name) && token.len() >= SHORTEST => (Some(name), token),
        _ => (None, text),
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_from_a_variable_or_a_file() {
        let tokens: Tokens = "# our own\nviewer:0123456789abcdef\n\noperator:fedcba9876543210,".parse().unwrap();
        assert_eq!(tokens.holder("0123456789abcdef").unwrap().role, Role::Viewer);
        assert_eq!(tokens.holder("fedcba9876543210").unwrap().role, Role::Operator);
        assert_eq!((tokens.holder(""), Tokens::default().holder("")), (None, None));
    }

    #[test]
    fn a_token_may_have_a_name_and_one_in_base64_is_not_taken_for_it() {
        let tokens: Tokens = "operator:anna=0123456789abcdef,operator:fedcba9876543210==".parse().unwrap();
        assert_eq!(tokens.holder("0123456789abcdef").unwrap().name.as_deref(), Some("anna"));
        assert_eq!(tokens.holder("fedcba9876543210==").unwrap().name, None);
        assert_eq!(tokens.holder("anna=0123456789abcdef"), None);
    }

    #[test]
    fn a_token_without_role_or_too_short_is_refused_and_not_repeated() {
        for text in ["0123456789abcdef", "admin:0123456789abcdef", "viewer:short", "viewer:white space in here"] {
            let error = text.parse::<Tokens>().unwrap_err().to_string();
            assert!(error.contains("token 1") && !error.contains("0123456789abcdef"), "{error}");
        }
    }

    #[test]
    fn where_tokens_should_be_there_must_be_one() {
        for text in ["", " \n", ",", "# none yet\n"] {
            assert!(matches!(text.parse::<Tokens>(), Err(TokensError::None)), "{text:?}");
        }
    }

    #[test]
    fn debug_output_shows_no_token() {
        let tokens: Tokens = "viewer:0123456789abcdef".parse().unwrap();
        assert_eq!(format!("{tokens:?}"), "1 tokens");
    }
}
