//! Snapshots in object storage: S3, and what speaks its protocol.
//!
//! [`ObjectStore`] is [`Objects`] of `floodplain-fold` on the crate `object_store`, whose only home this is: its own runtime with
//! one thread, for callers that may block. Each request has a timeout and is repeated a few times, so a store that does
//! not answer fails a call within [`Patience::total`] and one request, or so long for each part of a large object.

mod error;

pub use error::OpenError;

use bytes::Bytes;
use error::Refused;
use floodplain_fold::Objects;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{
    ClientConfigKey, GetOptions, ObjectStore as Store, ObjectStoreExt as _, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    memory::InMemory,
    path::Path,
};
use std::{
    fmt, fs, io,
    path::PathBuf,
    sync::{Arc, mpsc::sync_channel},
    time::Duration,
};
use tokio::runtime::Runtime;

/// Larger objects go and come in parts of so many bytes: each is there within the timeout of a request at 2.2 Mbit/s.
const PART_BYTES: usize = 8 << 20;
/// Parts of one object that are sent at a time.
const PARTS_AT_A_TIME: usize = 2;

/// A bucket, and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Config {
    pub bucket: String,
    /// Before all keys, without `/` at its ends; may be empty.
    pub prefix: String,
    /// URL of a store that is not Amazon's.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Without it the standard variables `AWS_*` say who we are, or the machine does.
    pub access_key: Option<AccessKey>,
    /// Whether the endpoint may be spoken to without TLS.
    pub allow_http: bool,
    pub patience: Patience,
}

/// Who we are to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessKey {
    pub id: String,
    /// File that holds the secret.
    pub secret_file: PathBuf,
}

/// How long a store is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the whole answer to a request.
    pub request: Duration,
    /// No request is repeated after so long.
    pub total: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), request: Duration::from_secs(30), total: Duration::from_secs(15) }
    }
}

/// How often a request is repeated at most.
const RETRIES: usize = 8;

/// Objects below a prefix of a bucket.
pub struct ObjectStore {
    store: Arc<dyn Store>,
    prefix: String,
    /// What people know it by.
    url: String,
    /// Drives connections also while nobody calls. It is there until [`Drop`].
    runtime: Option<Runtime>,
}

impl ObjectStore {
    /// Objects in a bucket. Nothing is asked of it yet.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn s3(config: &S3Config) -> Result<Self, OpenError> {
        let S3Config { bucket, prefix, endpoint, region, access_key, allow_http, patience } = config;
        let client = AmazonS3ConfigKey::Client;
        let in_words = |time: Duration| format!("{}ms", time.as_millis());
        let retry = RetryConfig { max_retries: RETRIES, retry_timeout: patience.total, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_config(client(ClientConfigKey::Timeout), in_words(patience.request))
            .with_config(client(ClientConfigKey::ConnectTimeout), in_words(patience.connect))
            .with_retry(retry);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = region {
            builder = builder.with_region(region);
        }
        if *allow_http {
            builder = builder.with_allow_http(true);
        }
        if let Some(AccessKey { id, secret_file }) = access_key {
            let secret = fs::read_to_string(secret_file)
                .map_err(|source| OpenError::Secret { path: secret_file.clone(), source })?;
            builder = builder.with_access_key_id(id).with_secret_access_key(secret.trim());
        }
        let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
        let store = builder.build().map_err(|error| OpenError::Store(error.into()))?;
        let place = if prefix.is_empty() { bucket.clone() } else { format!("{bucket}/{prefix}") };
        let at = endpoint.map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
        Self::on(Arc::new(store), prefix, format!("s3://{place}{at}"))
    }

    /// Objects in memory, for tests.
    ///
    /// # Errors
    /// [`OpenError::Thread`].
    pub fn memory() -> Result<Self, OpenError> {
        Self::on(Arc::new(InMemory::new()), "", "memory://".to_owned())
    }

    fn on(store: Arc<dyn Store>, prefix: &str, url: String) -> Result<Self, OpenError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("floodplain-objects")
            .enable_all()
            .build()
            .map_err(OpenError::Thread)?;
        Ok(Self { store, prefix: prefix.to_owned(), url, runtime: Some(runtime) })
    }

    fn path(&self, key: &str) -> Path {
        Path::from(format!("{}/{key}", self.prefix))
    }

    /// Runs `call` on the runtime and waits for it, whatever thread this is.
    fn wait<T: Send + 'static>(
        &self,
        call: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> io::Result<T> {
        let (sender, receiver) = sync_channel(1);
        let runtime = self.runtime.as_ref().expect("it is there until drop");
        runtime.spawn(async move { sender.send(call.await) });
        let Ok(result) = receiver.recv() else { return Err(io::Error::other("the call has panicked")) };
        result.map_err(|error| Refused::of(&error, &self.url).into())
    }
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        // Does not wait, so it may be dropped on a thread that must not.
        self.runtime.take().expect("it is there until drop").shutdown_background();
    }
}

impl fmt::Debug for ObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStore").field("url", &self.url).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Objects for ObjectStore {
    fn list(&self, prefix: &str) -> io::Result<Vec<String>> {
        let (store, path) = (self.store.clone(), self.path(prefix));
        let found = self.wait(async move { store.list_with_delimiter(Some(&path)).await })?;
        let name = |object: object_store::ObjectMeta| object.location.filename().map(str::to_owned);
        Ok(found.objects.into_iter().filter_map(name).collect())
    }

    fn get(&self, key: &str) -> io::Result<Vec<u8>> {
        let (store, path) = (self.store.clone(), self.path(key));
        self.wait(async move { get(&*store, &path).await })
    }

    fn put(&self, key: &str, bytes: Vec<u8>) -> io::Result<()> {
        let (store, path) = (self.store.clone(), self.path(key));
        self.wait(async move { put(&*store, &path, bytes.into()).await })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (store, from, to) = (self.store.clone(), self.path(from), self.path(to));
        self.wait(async move { store.rename(&from, &to).await })
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        let (store, path) = (self.store.clone(), self.path(key));
        match self.wait(async move { store.delete(&path).await }) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn place(&self, key: &str) -> String {
        format!("{key} in {}", self.url)
    }
}

/// At once, or in parts, which are of the same object.
async fn get(store: &dyn Store, path: &Path) -> object_store::Result<Vec<u8>> {
    let found = store.get(path).await?;
    let (size, e_tag) = (found.meta.size, found.meta.e_tag.clone());
    if size <= PART_BYTES as u64 {
        return found.bytes().await.map(Into::into);
    }
    drop(found);
    let mut bytes = Vec::new();
    for at in (0..size).step_by(PART_BYTES) {
        let range = at..size.min(at + PART_BYTES as u64);
        let options = GetOptions { range: Some(range.into()), if_match: e_tag.clone(), ..GetOptions::default() };
        bytes.extend_from_slice(&store.get_opts(path, options).await?.bytes().await?);
    }
    Ok(bytes)
}

/// At once, or in parts, which become an object when all are there.
async fn put(store: &dyn Store, path: &Path, bytes: Bytes) -> object_store::Result<()> {
    if bytes.len() <= PART_BYTES {
        return store.put(path, bytes.into()).await.map(drop);
    }
    let mut upload = store.put_multipart(path).await?;
    let part = |at| bytes.slice(at..bytes.len().min(at + PART_BYTES));
    let parts = stream::iter((0..bytes.len()).step_by(PART_BYTES)).map(|at| upload.put_part(part(at).into()));
    let mut sent: object_store::Result<()> = parts.buffer_unordered(PARTS_AT_A_TIME).try_collect().await;
    if sent.is_ok() {
        sent = upload.complete().await.map(drop);
    }
    if sent.is_err() {
        // What is left of it otherwise costs space until the bucket's own rules remove it; it is seen by no reader.
        drop(upload.abort().await);
    }
    sent
}
