//! What stands for object stores in a program that was built without them.

use super::{Address, Object, ObjectError};
use std::path::Path;

/// No store: opening one says which feature has them.
#[derive(Debug)]
pub struct Stores(std::convert::Infallible);

impl Stores {
    /// # Errors
    /// Always.
    pub fn open(
        action: &'static str,
        address: &Address,
        _: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ObjectError> {
        let message = "this program was built without object stores; build it with them: \
                       cargo build --release --features cloud";
        Err(ObjectError { action, url: address.to_string(), message: message.into() })
    }

    /// Lists what an address means.
    ///
    /// # Errors
    /// None: there is no value to call it on.
    pub fn list(&self, _: &Address) -> Result<Vec<Object>, ObjectError> {
        match self.0 {}
    }

    /// Brings an object to this machine.
    ///
    /// # Errors
    /// None: there is no value to call it on.
    pub fn fetch(&self, _: &Object, _: &Path) -> Result<(), ObjectError> {
        match self.0 {}
    }

    /// Writes a file to a store.
    ///
    /// # Errors
    /// None: there is no value to call it on.
    pub fn put(&self, _: &Path, _: &Address) -> Result<Object, ObjectError> {
        match self.0 {}
    }

    /// An object as it is now.
    ///
    /// # Errors
    /// None: there is no value to call it on.
    pub fn find(&self, _: &Address) -> Result<Option<Object>, ObjectError> {
        match self.0 {}
    }
}
