//! SCRAM (RFC 5802, and RFC 7677 for SHA-256): both sides prove that they know the password, or
//! what was derived from it, without sending it.

use super::sasl::ScramHash;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256, Sha512};

/// A broker that asks for less work than this is not trusted with the proof (RFC 7677).
const ITERATIONS_MIN: u32 = 4096;
/// One that asks for more keeps the client busy for seconds.
const ITERATIONS_MAX: u32 = 1 << 20;

/// A conversation, after its first message.
#[derive(Debug)]
pub(super) struct Scram {
    hash: ScramHash,
    password: String,
    first_bare: String,
    nonce: String,
}

/// After its second message.
#[derive(Debug)]
pub(super) struct Proven {
    signature: Vec<u8>,
}

impl Scram {
    /// The conversation and its first message.
    pub(super) fn begin(
        hash: ScramHash,
        user: &str,
        password: &str,
        nonce: &str,
    ) -> (Scram, String) {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={user},r={nonce}");
        let first = format!("n,,{first_bare}");
        let scram = Scram {
            hash,
            password: password.to_owned(),
            first_bare,
            nonce: nonce.to_owned(),
        };
        (scram, first)
    }

    /// The second message, as an answer to the broker's first. Takes milliseconds of work.
    ///
    /// # Errors
    /// What is wrong with the broker's message.
    pub(super) fn prove(self, server_first: &str) -> Result<(Proven, String), String> {
        let field = |name: char| {
            let mut fields = server_first.split(',');
            let found = fields.find_map(|f| f.strip_prefix(name)?.strip_prefix('='));
            found.ok_or_else(|| format!("the broker's message has no {name}"))
        };
        let nonce = field('r')?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("the broker's nonce does not go on from ours".to_owned());
        }
        let salt = BASE64.decode(field('s')?).map_err(|e| e.to_string())?;
        let iterations: u32 = field('i')?
            .parse()
            .map_err(|_| "the iterations are no number")?;
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
            return Err(format!(
                "{iterations} iterations; between {ITERATIONS_MIN} and {ITERATIONS_MAX} are taken"
            ));
        }
        let without_proof = format!("c=biws,r={nonce}");
        let signed = format!("{},{server_first},{without_proof}", self.first_bare);
        let password = self.password.as_bytes();
        let (proof, signature) = match self.hash {
            ScramHash::Sha256 => prove_sha256(password, &salt, iterations, signed.as_bytes()),
            ScramHash::Sha512 => prove_sha512(password, &salt, iterations, signed.as_bytes()),
        };
        let last = format!("{without_proof},p={}", BASE64.encode(proof));
        Ok((Proven { signature }, last))
    }
}

impl Proven {
    /// Whether the broker has shown that it knows the password too.
    ///
    /// # Errors
    /// What is wrong with its message.
    pub(super) fn check(&self, server_final: &str) -> Result<(), String> {
        if let Some(error) = server_final.strip_prefix("e=") {
            return Err(error.to_owned());
        }
        let signature = server_final.strip_prefix("v=").unwrap_or_default();
        let signature = signature.split(',').next().unwrap_or_default();
        match BASE64.decode(signature) {
            Ok(signature) if signature == self.signature => Ok(()),
            _ => Err("the broker does not know the password".to_owned()),
        }
    }
}

macro_rules! prove {
    ($name:ident, $hash:ty, $bytes:literal) => {
        fn $name(
            password: &[u8],
            salt: &[u8],
            iterations: u32,
            signed: &[u8],
        ) -> (Vec<u8>, Vec<u8>) {
            let sign = |key: &[u8], text: &[u8]| {
                let Ok(mut mac) = Hmac::<$hash>::new_from_slice(key) else {
                    unreachable!("HMAC takes keys of every length");
                };
                mac.update(text);
                mac.finalize().into_bytes()
            };
            let mut salted = [0; $bytes];
            pbkdf2::pbkdf2_hmac::<$hash>(password, salt, iterations, &mut salted);
            let client_key = sign(&salted, b"Client Key");
            let stored_key = <$hash>::digest(client_key);
            let client_signature = sign(&stored_key, signed);
            let proof = client_key.iter().zip(client_signature).map(|(k, s)| k ^ s);
            let server_key = sign(&salted, b"Server Key");
            (proof.collect(), sign(&server_key, signed).to_vec())
        }
    };
}

prove!(prove_sha256, Sha256, 32);
prove!(prove_sha512, Sha512, 64);

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn begin() -> (Scram, String) {
        Scram::begin(ScramHash::Sha256, "user", "pencil", "rOprNGfwEbeRWgbNEkqO")
    }

    /// The example of RFC 7677.
    #[test]
    fn the_conversation_is_that_of_the_standard() {
        let (scram, first) = begin();
        assert_eq!(first, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (proven, last) = scram.prove(SERVER_FIRST).unwrap();
        assert_eq!(
            last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let good = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        proven.check(good).unwrap();
        for wrong in ["", "v=", "v=AAAA", "e=other-error"] {
            proven.check(wrong).unwrap_err();
        }
    }

    #[test]
    fn a_broker_that_does_not_keep_to_it_is_refused() {
        for wrong in [
            "r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=999999999",
            "r=rOprNGfwEbeRWgbNEkqOx,s=!,i=4096",
            "",
        ] {
            begin().0.prove(wrong).unwrap_err();
        }
    }

    #[test]
    fn names_keep_their_signs() {
        let (_, first) = Scram::begin(ScramHash::Sha512, "a=b,c", "p", "n");
        assert_eq!(first, "n,,n=a=3Db=2Cc,r=n");
    }
}
