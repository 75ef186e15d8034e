"""Certificates for one run of the tests, made by Debian's openssl.

Nothing of it outlives the run, so no key lies in the repository and nothing expires there.
"""

import base64
import hashlib
import pathlib
import re
import subprocess


def openssl(directory, *arguments, check=True, input_=b""):
    """Runs openssl in a directory; returns its standard output and error as one text."""
    done = subprocess.run(
        ["openssl", *map(str, arguments)],
        cwd=directory,
        input=input_,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    text = done.stdout.decode(errors="replace")
    if check and done.returncode != 0:
        raise RuntimeError(f"openssl {' '.join(map(str, arguments))}: {text}")
    return text


class Authority:
    """A certificate authority in a directory of its own."""

    def __init__(self, directory, name="ca"):
        self.directory = pathlib.Path(directory)
        self.name = name
        self._key(name)
        openssl(
            self.directory, "req", "-x509", "-new", "-key", f"{name}.key", "-subj", f"/CN=Authority {name}",
            "-days", "30", "-out", f"{name}.crt",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip
        (self.directory / f"{name}.index").write_text("")
        (self.directory / f"{name}.cnf").write_text(
            f"[ca]\ndefault_ca=d\n[d]\ndatabase={name}.index\nserial={name}.serial\nnew_certs_dir=.\n"
            f"certificate={name}.crt\nprivate_key={name}.key\ndefault_md=sha256\ndefault_days=30\n"
            f"default_crl_days=30\ncrlnumber={name}.crlnumber\ncrl_extensions=e\npolicy=p\ncopy_extensions=none\nunique_subject=no\n[p]\ncommonName=supplied\n"
            "organizationName=optional\n"
            "[e]\nauthorityKeyIdentifier=keyid:always\n"
        )
        (self.directory / f"{name}.serial").write_text("1000\n")
        (self.directory / f"{name}.crlnumber").write_text("01\n")
        self.revocation_list()

    def _key(self, name):
        path = self.directory / f"{name}.key"
        openssl(self.directory, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path.name)
        path.chmod(0o600)

    def path(self, name):
        return str(self.directory / name)

    def issue(self, file, common_name, alternative_names, usage):
        """Writes FILE.crt and FILE.key."""
        self._key(file)
        openssl(
            self.directory, "req", "-new", "-key", f"{file}.key", "-subj", f"/O=Tests/CN={common_name}",
            "-out", f"{file}.csr",
        )  # fmt: skip
        (self.directory / f"{file}.ext").write_text(
            f"subjectAltName={alternative_names}\nextendedKeyUsage={usage}\n"
        )
        openssl(
            self.directory, "ca", "-batch", "-notext", "-config", f"{self.name}.cnf", "-in", f"{file}.csr",
            "-extfile", f"{file}.ext", "-out", f"{file}.crt",
        )  # fmt: skip

    def key_hash(self, file):
        """The base64 of the SHA-256 of FILE.crt's public key, as browsers want it."""
        pem = openssl(self.directory, "x509", "-in", f"{file}.crt", "-noout", "-pubkey")
        key = base64.b64decode(re.sub(r"-----.*?-----|\s", "", pem))
        return base64.b64encode(hashlib.sha256(key).digest()).decode()

    def revoke(self, file):
        openssl(self.directory, "ca", "-config", f"{self.name}.cnf", "-revoke", f"{file}.crt")
        self.revocation_list()

    def revocation_list(self):
        openssl(self.directory, "ca", "-gencrl", "-config", f"{self.name}.cnf", "-out", f"{self.name}.crl")
