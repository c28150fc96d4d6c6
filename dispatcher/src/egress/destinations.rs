//! The address policy as the rules of signatures ask it, so that a destination is judged in the same way when it is named and
//! when it is called.

use lovage_core::{Destinations, HeaderRefusal, UrlRefusal};

use super::{AddressPolicy, Target, TargetError, check_user_headers};

impl Destinations for AddressPolicy {
    fn check_url(&self, url: &str) -> Result<(), UrlRefusal> {
        match Target::parse(url, self) {
            Ok(_) => Ok(()),
            Err(TargetError::Invalid(why)) => Err(UrlRefusal::Invalid(why.to_owned())),
            Err(TargetError::Forbidden(why)) => Err(UrlRefusal::Forbidden(why.to_string())),
        }
    }

    fn check_headers(&self, headers: &[(String, String)]) -> Result<(), HeaderRefusal> {
        let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        match check_user_headers(pairs) {
            Ok(_) => Ok(()),
            Err(refusal) => Err(HeaderRefusal { name: refusal.name, message: refusal.why.to_owned() }),
        }
    }
}
