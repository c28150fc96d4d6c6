//! Lets the gateway ask the egress, so that a destination is judged by the same rules when it is submitted and when it
//! is called.

use lovage_core::{Destinations, HeaderRefusal, UrlRefusal};
use lovage_dispatcher::egress::{AddressPolicy, Target, TargetError, check_user_headers};

/// The egress's policy as the gateway wants to ask it.
pub(crate) struct EgressRules(pub AddressPolicy);

impl Destinations for EgressRules {
    fn check_url(&self, url: &str) -> Result<(), UrlRefusal> {
        match Target::parse(url, &self.0) {
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
