//! Object stores through the crate `object_store`. Whole objects only; every request has a bounded number of tries.

use super::{Address, Object, ObjectError, Scheme};
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as Key;
use object_store::{
    BackoffConfig, Error, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig,
    WriteMultipart,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use triax_data::AtomicFile;

/// Tries after the first, of each request and of each body that breaks off.
const RETRIES: usize = 6;
/// No try begins later than this after the first.
const PATIENCE: Duration = Duration::from_secs(60);
/// Files up to this many bytes are written by one request.
const ONE_REQUEST: u64 = 16 << 20;
/// Larger ones in parts of so many bytes; S3 takes 10 000 parts, so files of up to 160 GB.
const PART: usize = 16 << 20;
/// Parts on their way at once.
const PARTS: usize = 4;

/// The stores of a run, opened as they are needed.
pub struct Stores {
    runtime: Runtime,
    variables: Vec<(String, String)>,
    opened: Mutex<BTreeMap<(Scheme, String), Arc<dyn ObjectStore>>>,
}

impl Stores {
    /// `variables`: credentials, regions and endpoints by the names that the clouds' own tools read from the
    /// environment (`AWS_…`, `GOOGLE_…`, `AZURE_…`). `action` and `address` are named in errors.
    ///
    /// # Errors
    /// When threads cannot be started, or the address's store cannot be opened with these variables.
    pub fn open(
        action: &'static str,
        address: &Address,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ObjectError> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(|error| {
                ObjectError { action, url: address.to_string(), message: error.to_string() }
            })?;
        let stores = Self { runtime, variables: variables.into_iter().collect(), opened: Mutex::default() };
        stores.store(address).map_err(|error| stores.explain(action, address, &error))?;
        Ok(stores)
    }

    fn store(&self, address: &Address) -> Result<Arc<dyn ObjectStore>, Error> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (address.scheme, address.bucket.clone());
        if let Some(store) = opened.get(&name) {
            return Ok(store.clone());
        }
        let retry = RetryConfig {
            backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() },
            max_retries: RETRIES,
            retry_timeout: PATIENCE,
        };
        let bucket = &address.bucket;
        let named = |prefix: &'static str| {
            let variables = self.variables.iter().filter(move |(name, _)| name.starts_with(prefix));
            variables.map(|(name, value)| (name.to_ascii_lowercase(), value))
        };
        let store: Arc<dyn ObjectStore> = match address.scheme {
            Scheme::S3 => {
                let mut builder = AmazonS3Builder::new().with_bucket_name(bucket).with_retry(retry);
                for (name, value) in named("AWS_") {
                    // Other programs have variables of this kind, too.
                    if let Ok(key) = name.parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                Arc::new(builder.build()?)
            }
            Scheme::Gs => {
                let mut builder = GoogleCloudStorageBuilder::new().with_bucket_name(bucket).with_retry(retry);
                for (name, value) in named("GOOGLE_") {
                    if let Ok(key) = name.parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                Arc::new(builder.build()?)
            }
            Scheme::Az => {
                let mut builder = MicrosoftAzureBuilder::new().with_container_name(bucket).with_retry(retry);
                for (name, value) in named("AZURE_") {
                    if let Ok(key) = name.parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                Arc::new(builder.build()?)
            }
        };
        opened.insert(name, store.clone());
        Ok(store)
    }

    /// The object itself where there is one of this key; else all objects below it, or below what comes before a
    /// `*` in it, in the order of their keys.
    ///
    /// # Errors
    /// When the store or the bucket cannot be reached.
    pub fn list(&self, address: &Address) -> Result<Vec<Object>, ObjectError> {
        let stem = address.stem();
        if stem == *address
            && !stem.key.is_empty()
            && let Some(object) = self.find(address)?
        {
            return Ok(vec![object]);
        }
        let listing = async {
            let store = self.store(address)?;
            let prefix = Key::parse(&stem.key)?;
            let metas: Vec<ObjectMeta> =
                store.list((!stem.key.is_empty()).then_some(&prefix)).try_collect().await?;
            Ok(metas)
        };
        let metas = self.runtime.block_on(listing).map_err(|error| self.explain("list", address, &error))?;
        let mut objects: Vec<Object> = metas.iter().map(|meta| named(&stem, meta)).collect();
        objects.sort_by(|a, b| a.url.cmp(&b.url));
        Ok(objects)
    }

    /// The object as it is now; none where the key or the bucket does not exist.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses.
    pub fn find(&self, address: &Address) -> Result<Option<Object>, ObjectError> {
        let asking = async { self.store(address)?.head(&Key::parse(&address.key)?).await };
        match self.runtime.block_on(asking) {
            Ok(meta) => Ok(Some(named(address, &meta))),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.explain("read", address, &error)),
        }
    }

    /// Brings the whole object to `to`, which appears whole or not at all.
    ///
    /// # Errors
    /// When it cannot be read, is no longer what was listed, or breaks off; when the disk fails.
    pub fn fetch(&self, object: &Object, to: &Path) -> Result<(), ObjectError> {
        let fault = |message: String| ObjectError { action: "read", url: object.url.clone(), message };
        let address = Address::parse(&object.url).map_err(fault)?;
        let mut file = AtomicFile::create(to).map_err(|error| fault(error.to_string()))?;
        let changed = |now: String| {
            fault(format!(
                "it has changed since this run listed it ({} bytes, tag {}; now {now}); a run reads the same inputs to \
                 its end: start one in another folder",
                object.bytes, object.tag
            ))
        };
        let reading = async {
            let options = GetOptions {
                if_match: (!object.tag.is_empty()).then(|| object.tag.clone()),
                ..GetOptions::default()
            };
            let store = self.store(&address).map_err(|error| self.explain("read", &address, &error))?;
            let key = Key::parse(&address.key).map_err(|error| fault(error.to_string()))?;
            let found = match store.get_opts(&key, options).await {
                Ok(found) => found,
                Err(Error::Precondition { .. }) => return Err(changed("another tag".into())),
                Err(error) => return Err(self.explain("read", &address, &error)),
            };
            let tag = tag(&found.meta);
            if found.meta.size != object.bytes || tag != object.tag {
                return Err(changed(format!("{} bytes, tag {tag}", found.meta.size)));
            }
            let (mut pieces, mut came) = (found.into_stream(), 0);
            while let Some(piece) =
                pieces.try_next().await.map_err(|error| self.explain("read", &address, &error))?
            {
                came += piece.len() as u64;
                file.write(&piece).map_err(|error| fault(error.to_string()))?;
            }
            if came == object.bytes {
                Ok(())
            } else {
                Err(fault(format!("{came} bytes came of the {} that it has", object.bytes)))
            }
        };
        self.runtime.block_on(reading)?;
        file.commit().map_err(|error| fault(error.to_string()))
    }

    /// Writes a file to an address, over what is there, and returns the object that the store then has.
    ///
    /// # Errors
    /// When the file cannot be read, the store refuses or cannot be reached, or has other bytes afterwards.
    pub fn put(&self, from: &Path, address: &Address) -> Result<Object, ObjectError> {
        let fault = |message: String| ObjectError { action: "write", url: address.to_string(), message };
        let refused = |error: Error| self.explain("write", address, &error);
        let disk = |error: std::io::Error| fault(format!("{}: {error}", from.display()));
        let mut file = File::open(from).map_err(disk)?;
        let bytes = file.metadata().map_err(disk)?.len();
        let writing = async {
            let store = self.store(address).map_err(refused)?;
            let key = Key::parse(&address.key).map_err(|error| fault(error.to_string()))?;
            if bytes <= ONE_REQUEST {
                let mut content = Vec::new();
                file.read_to_end(&mut content).map_err(disk)?;
                store.put(&key, PutPayload::from(content)).await.map_err(refused)?;
            } else {
                let upload = store.put_multipart(&key).await.map_err(refused)?;
                let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
                let mut piece = vec![0; 1 << 20];
                loop {
                    let length = file.read(&mut piece).map_err(disk)?;
                    if length == 0 {
                        break;
                    }
                    upload.wait_for_capacity(PARTS).await.map_err(refused)?;
                    upload.write(&piece[..length]);
                }
                upload.finish().await.map_err(refused)?;
            }
            store.head(&key).await.map_err(refused)
        };
        let object = named(address, &self.runtime.block_on(writing)?);
        if object.bytes != bytes {
            return Err(fault(format!("the store has {} bytes of the {bytes} that were sent", object.bytes)));
        }
        Ok(object)
    }

    fn explain(&self, action: &'static str, address: &Address, error: &Error) -> ObjectError {
        let prefix = match address.scheme {
            Scheme::S3 => "AWS_",
            Scheme::Gs => "GOOGLE_",
            Scheme::Az => "AZURE_",
        };
        // A listing of a bucket that is not there comes as a generic error with the store's answer in it.
        let missing = |error: &Error| with_causes(error).contains("404 Not Found");
        let message = match error {
            Error::NotFound { .. } => "there is no such bucket or object".to_owned(),
            Error::Generic { .. } if missing(error) => "there is no such bucket or object".to_owned(),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => format!(
                "the store refuses access with the credentials of the variables {prefix}…: {}",
                with_causes(error)
            ),
            _ => format!(
                "{} (tried {} times at most, for at most {} s; endpoint and credentials are the variables {prefix}…)",
                with_causes(error),
                RETRIES + 1,
                PATIENCE.as_secs()
            ),
        };
        ObjectError { action, url: address.to_string(), message }
    }
}

/// The object that a store describes, in the bucket of `address`.
fn named(address: &Address, meta: &ObjectMeta) -> Object {
    let url = Address { key: meta.location.to_string(), ..address.clone() }.to_string();
    Object { url, bytes: meta.size, tag: tag(meta) }
}

/// The tag as the store's answers name it: Azure's listings leave out the quotation marks that belong to it.
fn tag(meta: &ObjectMeta) -> String {
    match meta.e_tag.as_deref() {
        None => String::new(),
        Some(tag) if tag.ends_with('"') => tag.to_owned(),
        Some(bare) => format!("\"{bare}\""),
    }
}

/// An error and what it comes from, each once: stores repeat their causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let message = inner.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = inner.source();
    }
    text
}
