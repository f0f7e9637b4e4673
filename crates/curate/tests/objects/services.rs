//! The stores' servers that `cargo xtask test --cloud` starts and names in the environment, as users name theirs.

use std::io::{Read, Write};
use std::net::TcpStream;
use triax_curate::objects::{Address, Stores};

/// One store of three.
pub(crate) struct Service {
    /// What its URLs begin with.
    pub(crate) scheme: &'static str,
    /// What names its server.
    variable: &'static str,
    /// What stands before and behind a bucket's name in the request that makes it, and a header of it.
    making: [&'static str; 3],
}

pub(crate) const S3: Service = Service { scheme: "s3", variable: "AWS_ENDPOINT_URL", making: ["/", "", ""] };

pub(crate) const GS: Service = Service {
    scheme: "gs",
    variable: "GOOGLE_BASE_URL",
    making: ["/", "", "Authorization: Bearer test\r\n"],
};

/// The query ends in the account's signature by the key that every Azurite has, valid until the end of 2099.
pub(crate) const AZ: Service = Service {
    scheme: "az",
    variable: "AZURITE_BLOB_STORAGE_URL",
    making: [
        "/devstoreaccount1/",
        "?restype=container&sv=2019-02-02&ss=b&srt=sco&sp=rwdlac&se=2099-12-31T00%3A00%3A00Z\
         &sig=kHuefUUN4YmaPUIQpZzreXpdIJhXtF7ZIQLaUKkauB8%3D",
        "",
    ],
};

impl Service {
    pub(crate) fn is_there(&self) -> bool {
        let found = std::env::var_os(self.variable).is_some();
        if !found {
            eprintln!("skipped: no server for {}://; cargo xtask test --cloud starts one", self.scheme);
        }
        found
    }

    pub(crate) fn stores(&self) -> Stores {
        Stores::open("test", &self.address("any"), std::env::vars()).unwrap()
    }

    /// `rest`: bucket and key.
    pub(crate) fn url(&self, rest: &str) -> String {
        format!("{}://{rest}", self.scheme)
    }

    pub(crate) fn address(&self, rest: &str) -> Address {
        Address::parse(&self.url(rest)).unwrap()
    }

    /// Makes a bucket, which the stores' crate does not.
    pub(crate) fn make(&self, bucket: &str) {
        let endpoint = std::env::var(self.variable).unwrap();
        let host = endpoint.trim_start_matches("http://");
        let mut connection = TcpStream::connect(host).unwrap();
        let [before, behind, header] = self.making;
        let lines = format!("Host: {host}\r\nContent-Length: 0\r\nConnection: close\r\n{header}");
        write!(connection, "PUT {before}{bucket}{behind} HTTP/1.1\r\n{lines}\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    }
}
