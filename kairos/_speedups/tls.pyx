"""TLS as a codec: what arrives goes in, plain bytes come out; plain bytes go in, what is to be sent lies in one buffer.

OpenSSL speaks the protocol; it never sees a socket, and nothing here waits. Rules:
- One output buffer serves all sessions of the process: after each call the caller sends what lies there, before the
  next call. A session itself holds nothing but OpenSSL's state.
- The context is chosen in the ClientHello, before OpenSSL looks at a ticket, and a ticket is good only for contexts
  with the session id context of the one that gave it: it cannot carry a client past what another name asks for.
- Keys of tickets lie in memory shared by all workers (TicketRing). One process writes them, and makes a key known only
  when it is whole; all others read.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy, memset
from libc.time cimport time as seconds, time_t, tm

from kairos._speedups.cells cimport Page, load_acquire, store_release


cdef extern from "openssl.h":
    ctypedef struct SSL:
        pass
    ctypedef struct SSL_CTX:
        pass
    ctypedef struct X509:
        pass
    ctypedef struct BIO:
        pass
    ctypedef struct BIO_METHOD:
        pass
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct EVP_MAC_CTX:
        pass
    ctypedef struct OSSL_PARAM:
        pass
    ctypedef const unsigned char* octets "const unsigned char *"
    void* dlopen(const char* name, int flags)
    char* dlerror()
    int RTLD_NOW, RTLD_LOCAL
    const char* openssl_load "kairos_openssl_load"(void* library)
    unsigned long OpenSSL_version_num "ossl.OpenSSL_version_num"()
    const char* OpenSSL_version "ossl.OpenSSL_version"(int what)
    void* TLS_server_method "ossl.TLS_server_method"()
    SSL_CTX* SSL_CTX_new "ossl.SSL_CTX_new"(void* method)
    void SSL_CTX_free "ossl.SSL_CTX_free"(SSL_CTX* ctx)
    long SSL_CTX_ctrl "ossl.SSL_CTX_ctrl"(SSL_CTX* ctx, int what, long n, void* p)
    long SSL_CTX_callback_ctrl "ossl.SSL_CTX_callback_ctrl"(SSL_CTX* ctx, int what, void (*f)() noexcept)
    uint64_t SSL_CTX_set_options "ossl.SSL_CTX_set_options"(SSL_CTX* ctx, uint64_t options)
    int SSL_CTX_set_cipher_list "ossl.SSL_CTX_set_cipher_list"(SSL_CTX* ctx, const char* text)
    int SSL_CTX_set_ciphersuites "ossl.SSL_CTX_set_ciphersuites"(SSL_CTX* ctx, const char* text)
    int SSL_CTX_use_certificate_chain_file "ossl.SSL_CTX_use_certificate_chain_file"(SSL_CTX* ctx, const char* path)
    int SSL_CTX_use_PrivateKey_file "ossl.SSL_CTX_use_PrivateKey_file"(SSL_CTX* ctx, const char* path, int kind)
    int SSL_CTX_check_private_key "ossl.SSL_CTX_check_private_key"(SSL_CTX* ctx)
    X509* SSL_CTX_get0_certificate "ossl.SSL_CTX_get0_certificate"(SSL_CTX* ctx)
    void SSL_CTX_set_default_passwd_cb "ossl.SSL_CTX_set_default_passwd_cb"(
        SSL_CTX* ctx, int (*f)(char*, int, int, void*) noexcept)
    void SSL_CTX_set_verify "ossl.SSL_CTX_set_verify"(SSL_CTX* ctx, int mode, void* f)
    void SSL_CTX_set_verify_depth "ossl.SSL_CTX_set_verify_depth"(SSL_CTX* ctx, int depth)
    int SSL_CTX_load_verify_locations "ossl.SSL_CTX_load_verify_locations"(
        SSL_CTX* ctx, const char* path, const char* folder)
    void* SSL_load_client_CA_file "ossl.SSL_load_client_CA_file"(const char* path)
    void SSL_CTX_set_client_CA_list "ossl.SSL_CTX_set_client_CA_list"(SSL_CTX* ctx, void* names)
    void* SSL_CTX_get_cert_store "ossl.SSL_CTX_get_cert_store"(SSL_CTX* ctx)
    void* X509_LOOKUP_file "ossl.X509_LOOKUP_file"()
    void* X509_STORE_add_lookup "ossl.X509_STORE_add_lookup"(void* store, void* method)
    int X509_load_crl_file "ossl.X509_load_crl_file"(void* lookup, const char* path, int kind)
    int X509_STORE_set_flags "ossl.X509_STORE_set_flags"(void* store, unsigned long flags)
    int SSL_CTX_set_session_id_context "ossl.SSL_CTX_set_session_id_context"(
        SSL_CTX* ctx, const unsigned char* p, unsigned int n)
    long SSL_CTX_set_timeout "ossl.SSL_CTX_set_timeout"(SSL_CTX* ctx, long s)
    int SSL_CTX_set_num_tickets "ossl.SSL_CTX_set_num_tickets"(SSL_CTX* ctx, size_t n)
    int SSL_CTX_set_tlsext_ticket_key_evp_cb "ossl.SSL_CTX_set_tlsext_ticket_key_evp_cb"(
        SSL_CTX* ctx,
        int (*f)(SSL*, unsigned char*, unsigned char*, EVP_CIPHER_CTX*, EVP_MAC_CTX*, int) noexcept)
    void SSL_CTX_set_client_hello_cb "ossl.SSL_CTX_set_client_hello_cb"(
        SSL_CTX* ctx, int (*f)(SSL*, int*, void*) noexcept, void* argument)
    void SSL_CTX_set_alpn_select_cb "ossl.SSL_CTX_set_alpn_select_cb"(
        SSL_CTX* ctx,
        int (*f)(SSL*, octets*, unsigned char*, octets, unsigned int, void*) noexcept,
        void* argument)
    int SSL_client_hello_get0_ext "ossl.SSL_client_hello_get0_ext"(
        SSL* ssl, unsigned int kind, octets* p, size_t* n)
    SSL* SSL_new "ossl.SSL_new"(SSL_CTX* ctx)
    void SSL_free "ossl.SSL_free"(SSL* ssl)
    int SSL_set_ex_data "ossl.SSL_set_ex_data"(SSL* ssl, int index, void* p)
    void* SSL_get_ex_data "ossl.SSL_get_ex_data"(const SSL* ssl, int index)
    void SSL_set_bio "ossl.SSL_set_bio"(SSL* ssl, BIO* source, BIO* sink)
    void SSL_set_accept_state "ossl.SSL_set_accept_state"(SSL* ssl)
    SSL_CTX* SSL_set_SSL_CTX "ossl.SSL_set_SSL_CTX"(SSL* ssl, SSL_CTX* ctx)
    void SSL_set_verify "ossl.SSL_set_verify"(SSL* ssl, int mode, void* f)
    void SSL_set_verify_depth "ossl.SSL_set_verify_depth"(SSL* ssl, int depth)
    int SSL_do_handshake "ossl.SSL_do_handshake"(SSL* ssl)
    int SSL_new_session_ticket "ossl.SSL_new_session_ticket"(SSL* ssl)
    int SSL_read "ossl.SSL_read"(SSL* ssl, void* out, int n)
    int SSL_write "ossl.SSL_write"(SSL* ssl, const void* p, int n)
    int SSL_has_pending "ossl.SSL_has_pending"(const SSL* ssl)
    int SSL_shutdown "ossl.SSL_shutdown"(SSL* ssl)
    int SSL_get_error "ossl.SSL_get_error"(const SSL* ssl, int outcome)
    int SSL_version "ossl.SSL_version"(const SSL* ssl)
    int SSL_session_reused "ossl.SSL_session_reused"(const SSL* ssl)
    const void* SSL_get_current_cipher "ossl.SSL_get_current_cipher"(const SSL* ssl)
    const char* SSL_CIPHER_get_name "ossl.SSL_CIPHER_get_name"(const void* cipher)
    long SSL_get_verify_result "ossl.SSL_get_verify_result"(const SSL* ssl)
    long SSL_ctrl "ossl.SSL_ctrl"(SSL* ssl, int what, long n, void* p)
    X509* SSL_get1_peer_certificate "ossl.SSL_get1_peer_certificate"(const SSL* ssl)
    X509* SSL_get_certificate "ossl.SSL_get_certificate"(const SSL* ssl)
    int i2d_X509 "ossl.i2d_X509"(X509* certificate, unsigned char** out)
    void X509_free "ossl.X509_free"(X509* certificate)
    const char* X509_verify_cert_error_string "ossl.X509_verify_cert_error_string"(long n)
    BIO_METHOD* BIO_meth_new "ossl.BIO_meth_new"(int kind, const char* name)
    int BIO_meth_set_read "ossl.BIO_meth_set_read"(BIO_METHOD* method, int (*f)(BIO*, char*, int) noexcept)
    int BIO_meth_set_write "ossl.BIO_meth_set_write"(
        BIO_METHOD* method, int (*f)(BIO*, const char*, int) noexcept)
    int BIO_meth_set_ctrl "ossl.BIO_meth_set_ctrl"(
        BIO_METHOD* method, long (*f)(BIO*, int, long, void*) noexcept)
    BIO* BIO_new "ossl.BIO_new"(const BIO_METHOD* method)
    void BIO_set_data "ossl.BIO_set_data"(BIO* bio, void* p)
    void* BIO_get_data "ossl.BIO_get_data"(BIO* bio)
    void BIO_set_init "ossl.BIO_set_init"(BIO* bio, int on)
    void BIO_set_flags "ossl.BIO_set_flags"(BIO* bio, int flags)
    void BIO_clear_flags "ossl.BIO_clear_flags"(BIO* bio, int flags)
    unsigned long ERR_peek_error "ossl.ERR_peek_error"()
    unsigned long ERR_peek_last_error "ossl.ERR_peek_last_error"()
    const char* ERR_reason_error_string "ossl.ERR_reason_error_string"(unsigned long n)
    void ERR_clear_error "ossl.ERR_clear_error"()
    int RAND_bytes "ossl.RAND_bytes"(unsigned char* out, int n)
    EVP_CIPHER* EVP_CIPHER_fetch "ossl.EVP_CIPHER_fetch"(void* library, const char* name, const char* properties)
    int EVP_EncryptInit_ex "ossl.EVP_EncryptInit_ex"(
        EVP_CIPHER_CTX* ctx, const EVP_CIPHER* cipher, void* engine, const unsigned char* key, const unsigned char* iv)
    int EVP_DecryptInit_ex "ossl.EVP_DecryptInit_ex"(
        EVP_CIPHER_CTX* ctx, const EVP_CIPHER* cipher, void* engine, const unsigned char* key, const unsigned char* iv)
    int EVP_MAC_CTX_set_params "ossl.EVP_MAC_CTX_set_params"(EVP_MAC_CTX* ctx, const OSSL_PARAM* params)
    OSSL_PARAM OSSL_PARAM_construct_octet_string "ossl.OSSL_PARAM_construct_octet_string"(
        const char* key, void* p, size_t n)
    OSSL_PARAM OSSL_PARAM_construct_utf8_string "ossl.OSSL_PARAM_construct_utf8_string"(
        const char* key, char* p, size_t n)
    OSSL_PARAM OSSL_PARAM_construct_end "ossl.OSSL_PARAM_construct_end"()
    void* CRYPTO_malloc "ossl.CRYPTO_malloc"(size_t n, const char* file, int line)
    void* d2i_OCSP_RESPONSE "ossl.d2i_OCSP_RESPONSE"(void** out, octets* p, long n)
    void OCSP_RESPONSE_free "ossl.OCSP_RESPONSE_free"(void* response)
    int OCSP_response_status "ossl.OCSP_response_status"(void* response)
    void* OCSP_response_get1_basic "ossl.OCSP_response_get1_basic"(void* response)
    void OCSP_BASICRESP_free "ossl.OCSP_BASICRESP_free"(void* basic)
    void* OCSP_resp_get0 "ossl.OCSP_resp_get0"(void* basic, int index)
    int OCSP_single_get0_status "ossl.OCSP_single_get0_status"(
        void* single, int* reason, void** revoked, void** since, void** until)
    int ASN1_TIME_to_tm "ossl.ASN1_TIME_to_tm"(const void* time, tm* out)

cdef extern from "<time.h>" nogil:
    time_t timegm(tm* t)


cdef enum:  # numbers of OpenSSL's interface
    FILETYPE_PEM = 1
    CTRL_MODE = 33
    CTRL_SET_SESS_CACHE_MODE = 44
    CTRL_SET_STATUS_CB = 63
    CTRL_SET_STATUS_RESPONSE = 71
    CTRL_SET_GROUPS_LIST = 92
    CTRL_SET_MIN_PROTO_VERSION = 123
    MODE_NO_AUTO_CHAIN = 0x08
    MODE_RELEASE_BUFFERS = 0x10
    OP_NO_TICKET = 1 << 14
    OP_NO_COMPRESSION = 1 << 17
    OP_PRIORITIZE_CHACHA = 1 << 21
    OP_SERVER_PREFERENCE = 1 << 22
    OP_NO_RENEGOTIATION = 1 << 30
    VERIFY_PEER = 1
    VERIFY_REQUIRED = 2
    CRL_CHECK = 0x4
    CRL_CHECK_ALL = 0x8
    ERROR_WANT_READ = 2
    ERROR_ZERO_RETURN = 6
    HELLO_OK = 1
    HELLO_ERROR = 0
    ALERT_UNRECOGNIZED_NAME = 112
    EXT_OK = 0
    EXT_FATAL = 2
    EXT_NOACK = 3
    EXTENSION_SERVER_NAME = 0
    BIO_SOURCE_SINK = 0x400
    BIO_READ = 0x01
    BIO_RETRY = 0x08
    BIO_ALL_RETRY = 0x0F
    BIO_CTRL_FLUSH = 11
    OCSP_GOOD = 0
    TLS_1_3 = 0x0304

cdef enum:
    RECORD = 16384              # plain bytes of a record at most
    OVERHEAD = 20480            # part of a record that OpenSSL holds from before
    KEEP = 1 << 20              # an output buffer that grew beyond this is given back


UNKNOWN_NAME = "nobody serves this server name"
"""The reason of a handshake that a strict TlsServer did not make."""


class TlsError(Exception):
    """A context cannot be made; the text says what of, and why."""


# ---- the library ------------------------------------------------------------------------------------------------

cdef BIO_METHOD* bio_method = NULL
cdef EVP_CIPHER* ticket_cipher = NULL
cdef TicketRing* ticket_ring = NULL
cdef Page ticket_page = None   # keeps the ring mapped
cdef Output output


def library():
    """Find OpenSSL, once; its version as text.

    Raises:
        TlsError: there is none that serves.
    """
    if bio_method == NULL:
        _load()
    return (<bytes>OpenSSL_version(0)).decode()


cdef int _load() except -1:
    global bio_method, ticket_cipher
    import _ssl
    path = getattr(_ssl, "__file__", None)
    missing = None
    for name in (path, "libssl.so.3"):  # an interpreter that brings its own library may hide it
        if name is None:
            continue
        handle = dlopen(_path(name), RTLD_NOW | RTLD_LOCAL)
        if handle == NULL:
            missing = (<bytes>dlerror()).decode(errors="replace")
            continue
        found = openssl_load(handle)
        if found == NULL:
            break
        missing = f"{name} has no {(<bytes>found).decode()}"
    else:
        raise TlsError(f"TLS needs OpenSSL 3 as a shared library (Debian: libssl3): {missing}")
    bio_method = BIO_meth_new(BIO_SOURCE_SINK | 64, b"kairos")
    BIO_meth_set_read(bio_method, _bio_read)
    BIO_meth_set_write(bio_method, _bio_write)
    BIO_meth_set_ctrl(bio_method, _bio_ctrl)
    ticket_cipher = EVP_CIPHER_fetch(NULL, b"AES-256-CBC", NULL)
    if ticket_cipher == NULL:
        raise TlsError("OpenSSL has no AES-256-CBC")
    return 0


cdef bytes _path(str name):
    """As the file system has it."""
    return name.encode("utf-8", "surrogateescape")


cdef str _reason():
    """The oldest error of OpenSSL's queue in words; the queue is empty afterwards."""
    cdef unsigned long number = ERR_peek_error()
    cdef const char* text = ERR_reason_error_string(number) if number else NULL
    ERR_clear_error()
    return "unknown" if text == NULL else (<bytes>text).decode(errors="replace")


cdef int _check(bint good, str what) except -1:
    if not good:
        raise TlsError(f"{what}: {_reason()}")
    return 0


# ---- bytes to and from OpenSSL ----------------------------------------------------------------------------------

cdef int _bio_read(BIO* bio, char* out, int n) noexcept:
    cdef Pipe* pipe = <Pipe*>BIO_get_data(bio)
    BIO_clear_flags(bio, BIO_ALL_RETRY)
    if pipe.size == 0:
        BIO_set_flags(bio, BIO_READ | BIO_RETRY)
        return -1
    if n > pipe.size:
        n = <int>pipe.size
    memcpy(out, pipe.data, n)
    pipe.data += n
    pipe.size -= n
    return n


cdef int _bio_write(BIO* bio, const char* p, int n) noexcept:
    cdef Py_ssize_t room
    cdef char* data
    if output.size + n > output.room:
        room = max(2 * output.room, output.size + n + OVERHEAD)
        data = <char*>PyMem_RawRealloc(output.data, room)
        if data == NULL:
            return -1
        output.data = data
        output.room = room
    memcpy(output.data + output.size, p, n)
    output.size += n
    return n


cdef long _bio_ctrl(BIO* bio, int what, long n, void* p) noexcept:
    return what == BIO_CTRL_FLUSH


cdef Output* tls_output() noexcept nogil:
    """What is to be sent now; whoever has sent it says tls_sent()."""
    return &output


cdef void tls_sent() noexcept nogil:
    """The output is empty again; one that a large write made grow is given back."""
    output.size = 0
    if output.room > KEEP:
        PyMem_RawFree(output.data)
        output.data = NULL
        output.room = 0


# ---- tickets ----------------------------------------------------------------------------------------------------

def use_ticket_keys(Page page, Py_ssize_t cell):
    """Tickets are made and read with the keys at this place of the shared page."""
    global ticket_ring, ticket_page
    ticket_page = page
    ticket_ring = <TicketRing*>page.at(cell, TICKET_CELLS)


def rotate_ticket_key(Page page, Py_ssize_t cell, bytes secret, int64_t now):
    """Make a new key, of 80 random bytes, the one in use. The one before is good for another turn.

    For one process only.
    """
    cdef TicketRing* ring = <TicketRing*>page.at(cell, TICKET_CELLS)
    cdef TicketKey* key = &ring.keys[ring.turn % TICKET_KEYS]
    if len(secret) != 80:
        raise ValueError("a ticket key takes 80 bytes")
    memcpy(key.name, PyBytes_AS_STRING(secret), 16)
    memcpy(key.cipher, PyBytes_AS_STRING(secret) + 16, 32)
    memcpy(key.mac, PyBytes_AS_STRING(secret) + 48, 32)
    key.made_at = now
    store_release(&ring.turn, ring.turn + 1)


def ticket_key_made_at(Page page, Py_ssize_t cell):
    """When the key in use was made, in unix seconds; 0: there is none."""
    cdef TicketRing* ring = <TicketRing*>page.at(cell, TICKET_CELLS)
    return ring.keys[(ring.turn - 1) % TICKET_KEYS].made_at if ring.turn else 0


cdef TicketKey* _ticket_key(const unsigned char* name) noexcept nogil:
    """The key in use for no name; by its name it or the one before."""
    cdef int64_t turn = 0 if ticket_ring == NULL else load_acquire(&ticket_ring.turn)
    cdef TicketKey* key
    cdef int64_t age
    for age in range(1, TICKET_KEYS):
        if turn < age:
            return NULL
        key = &ticket_ring.keys[(turn - age) % TICKET_KEYS]
        if name == NULL or memcmp(key.name, name, 16) == 0:
            return key
    return NULL


cdef int _on_ticket(
    SSL* ssl, unsigned char* name, unsigned char* iv, EVP_CIPHER_CTX* cipher, EVP_MAC_CTX* mac, int sealing
) noexcept:
    """OpenSSL asks for the key that a ticket is made with, or says it was."""
    cdef TicketKey* key = _ticket_key(NULL if sealing else name)
    cdef OSSL_PARAM params[3]
    if key == NULL:
        return 0  # no ticket, or a full handshake
    if sealing:
        memcpy(name, key.name, 16)
        if RAND_bytes(iv, 16) != 1 or EVP_EncryptInit_ex(cipher, ticket_cipher, NULL, key.cipher, iv) != 1:
            return -1
    elif EVP_DecryptInit_ex(cipher, ticket_cipher, NULL, key.cipher, iv) != 1:
        return -1
    params[0] = OSSL_PARAM_construct_octet_string(b"key", key.mac, 32)
    params[1] = OSSL_PARAM_construct_utf8_string(b"digest", <char*>b"SHA256", 0)
    params[2] = OSSL_PARAM_construct_end()
    if EVP_MAC_CTX_set_params(mac, params) != 1:
        return -1
    if not sealing and (SSL_version(ssl) == TLS_1_3 or key != _ticket_key(NULL)):
        return 2  # a fresh one, please: of TLS 1.3 each is used once (RFC 8446 appendix C.4)
    return 1


# ---- contexts ---------------------------------------------------------------------------------------------------

cdef int _no_password(char* out, int room, int writing, void* argument) noexcept:
    """An encrypted key is refused: OpenSSL would ask the terminal for its password."""
    return 0


@cython.final
cdef class TlsContext:
    """Made by proxy/tls.py from plain values.

    Raises:
        TlsError: a file cannot be used, or a setting is none.
    """

    def __init__(self, spec, certificates, client=None, bytes session_id=b"kairos", policy=None):
        library()
        self.policy = policy
        self.staples = []
        self.ctx = SSL_CTX_new(TLS_server_method())
        _check(self.ctx != NULL, "no TLS context")
        self._settings(spec)
        self._certificates(certificates)
        if client is not None:
            self._clients(client)
        SSL_CTX_set_session_id_context(
            <SSL_CTX*>self.ctx, <const unsigned char*>PyBytes_AS_STRING(session_id), <unsigned int>len(session_id))

    def __dealloc__(self):
        if self.ctx != NULL:
            SSL_CTX_free(<SSL_CTX*>self.ctx)

    cdef int _settings(self, spec) except -1:
        cdef SSL_CTX* ctx = <SSL_CTX*>self.ctx
        cdef uint64_t options = (
            <uint64_t>OP_NO_RENEGOTIATION | OP_NO_COMPRESSION | OP_SERVER_PREFERENCE | OP_PRIORITIZE_CHACHA
        )
        lowest = {"1.2": 0x0303, "1.3": 0x0304}[spec.min_version]
        _check(SSL_CTX_ctrl(ctx, CTRL_SET_MIN_PROTO_VERSION, lowest, NULL) == 1, f"min_version {spec.min_version}")
        if spec.ciphers is not None:
            _check(SSL_CTX_set_cipher_list(ctx, spec.ciphers.encode()) == 1, f"ciphers {spec.ciphers!r}")
        if spec.ciphersuites is not None:
            good = SSL_CTX_set_ciphersuites(ctx, spec.ciphersuites.encode()) == 1
            _check(good, f"ciphersuites {spec.ciphersuites!r}")
        if spec.groups is not None:
            groups = spec.groups.encode()
            _check(SSL_CTX_ctrl(ctx, CTRL_SET_GROUPS_LIST, 0, <char*>groups) == 1, f"groups {spec.groups!r}")
        # The chain is what its file holds. OpenSSL would look for one in each handshake, among clients' authorities.
        SSL_CTX_ctrl(ctx, CTRL_MODE, MODE_RELEASE_BUFFERS | MODE_NO_AUTO_CHAIN, NULL)
        SSL_CTX_ctrl(ctx, CTRL_SET_SESS_CACHE_MODE, 0, NULL)  # tickets carry the state: nothing is kept here
        SSL_CTX_set_num_tickets(ctx, 0)  # of TLS 1.3: see write()
        self.gives_tickets = spec.tickets.enabled
        if spec.tickets.enabled:
            SSL_CTX_set_timeout(ctx, <long>spec.tickets.lifetime)
            SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, _on_ticket)
        else:
            options |= OP_NO_TICKET
        SSL_CTX_set_options(ctx, options)
        SSL_CTX_set_alpn_select_cb(ctx, _on_alpn, NULL)
        SSL_CTX_callback_ctrl(ctx, CTRL_SET_STATUS_CB, <void (*)() noexcept><void*>_on_status)
        return 0

    cdef int _certificates(self, certificates) except -1:
        """Files of chain, key and OCSP response (or None) of each; several are of different kinds of keys."""
        cdef SSL_CTX* ctx = <SSL_CTX*>self.ctx
        cdef int64_t until
        SSL_CTX_set_default_passwd_cb(ctx, _no_password)
        for chain, key, staple in certificates:
            path = _path(chain)
            _check(SSL_CTX_use_certificate_chain_file(ctx, path) == 1, f"{chain} holds no certificate that can be used")
            path = _path(key)
            _check(SSL_CTX_use_PrivateKey_file(ctx, path, FILETYPE_PEM) == 1, f"{key} holds no key that can be used")
            _check(SSL_CTX_check_private_key(ctx) == 1, f"{key} is not the key of {chain}")
            if staple is not None:
                until = staple_good_until(staple)
                self.staples.append((<uintptr_t>SSL_CTX_get0_certificate(ctx), staple, until))
        return 0

    cdef int _clients(self, client) except -1:
        """Client certificates: `required`, `ca_file`, `crl_file`, `depth`."""
        cdef SSL_CTX* ctx = <SSL_CTX*>self.ctx
        cdef void* lookup
        cdef void* names
        path = _path(client.ca_file)
        _check(SSL_CTX_load_verify_locations(ctx, path, NULL) == 1, f"{client.ca_file} holds no authorities")
        names = SSL_load_client_CA_file(path)
        _check(names != NULL, f"{client.ca_file} holds no authorities")
        SSL_CTX_set_client_CA_list(ctx, names)
        if client.crl_file is not None:
            lookup = X509_STORE_add_lookup(SSL_CTX_get_cert_store(ctx), X509_LOOKUP_file())
            _check(lookup != NULL, "no store")
            path = _path(client.crl_file)
            _check(
                X509_load_crl_file(lookup, path, FILETYPE_PEM) > 0,
                f"{client.crl_file} holds no certificate revocation list",
            )
            X509_STORE_set_flags(SSL_CTX_get_cert_store(ctx), CRL_CHECK | CRL_CHECK_ALL)
        self.verify = VERIFY_PEER | (VERIFY_REQUIRED if client.mode == "required" else 0)
        self.depth = client.depth
        SSL_CTX_set_verify(ctx, self.verify, NULL)
        SSL_CTX_set_verify_depth(ctx, self.depth)
        return 0

    cdef bytes _staple(self, void* certificate, int64_t now):
        for address, staple, until in self.staples:
            if <uintptr_t>address == <uintptr_t>certificate and until > now:
                return staple
        return None


cpdef int64_t staple_good_until(bytes staple) except -1:
    """Until when, in unix seconds, an OCSP response (DER) may be sent.

    Raises:
        TlsError: it is none, or does not call its certificate good.
    """
    cdef octets p = <octets>PyBytes_AS_STRING(staple)
    cdef void* response
    cdef void* basic
    cdef int64_t until
    library()
    response = d2i_OCSP_RESPONSE(NULL, &p, <long>len(staple))
    _check(response != NULL, "not an OCSP response")
    basic = OCSP_response_get1_basic(response) if OCSP_response_status(response) == 0 else NULL
    OCSP_RESPONSE_free(response)
    _check(basic != NULL, "an OCSP response without an answer")
    until = _next_update(basic)
    OCSP_BASICRESP_free(basic)
    ERR_clear_error()
    if until < 0:
        raise TlsError("an OCSP response that does not call the certificate good")
    return until


cdef int64_t _next_update(void* basic) noexcept:
    """Of the first answer; far away where none is given; -1: it does not say good."""
    cdef void* single = OCSP_resp_get0(basic, 0)
    cdef int reason
    cdef void* revoked
    cdef void* since
    cdef void* until = NULL
    cdef tm t
    if single == NULL or OCSP_single_get0_status(single, &reason, &revoked, &since, &until) != OCSP_GOOD:
        return -1
    if until == NULL:
        return 1 << 60
    memset(&t, 0, sizeof(tm))
    return timegm(&t) if ASN1_TIME_to_tm(until, &t) == 1 else -1


cdef int _on_status(SSL* ssl, void* argument) noexcept:
    """The client wants an OCSP response with the certificate (RFC 6066 section 8)."""
    cdef TlsSession session = <TlsSession>SSL_get_ex_data(ssl, 0)
    cdef bytes staple = session.context._staple(SSL_get_certificate(ssl), seconds(NULL))
    cdef void* copy
    if staple is None:
        return EXT_NOACK
    copy = CRYPTO_malloc(PyBytes_GET_SIZE(staple), b"kairos", 0)  # OpenSSL frees it
    if copy == NULL:
        return EXT_NOACK
    memcpy(copy, PyBytes_AS_STRING(staple), PyBytes_GET_SIZE(staple))
    SSL_ctrl(ssl, CTRL_SET_STATUS_RESPONSE, <long>PyBytes_GET_SIZE(staple), copy)
    return EXT_OK


cdef int _on_alpn(
    SSL* ssl, octets* out, unsigned char* size, octets offered, unsigned int n, void* argument
) noexcept:
    """HTTP/1.1 or nothing (RFC 7301 section 3.2)."""
    cdef unsigned int at = 0, length
    while at < n:
        length = offered[at]
        if length == 8 and at + 9 <= n and memcmp(offered + at + 1, b"http/1.1", 8) == 0:
            out[0] = offered + at + 1
            size[0] = 8
            return EXT_OK
        at += 1 + length
    return EXT_FATAL


cdef int _on_hello(SSL* ssl, int* alert, void* argument) noexcept:
    """The first thing a client says: its server name decides on the context, before tickets are looked at."""
    cdef TlsSession session = <TlsSession>SSL_get_ex_data(ssl, 0)
    cdef TlsContext context
    session.server_name = _hello_name(ssl)
    context = session.server.find(session.server_name)
    if context is None:
        alert[0] = ALERT_UNRECOGNIZED_NAME
        session.reason = UNKNOWN_NAME
        return HELLO_ERROR
    if context is not session.context:
        session.context = context
        SSL_set_SSL_CTX(ssl, <SSL_CTX*>context.ctx)
        SSL_set_verify(ssl, context.verify, NULL)
        SSL_set_verify_depth(ssl, context.depth if context.verify else 100)
    return HELLO_OK


cdef bytes _hello_name(SSL* ssl):
    """The host_name of the server_name extension (RFC 6066 section 3), None without one; OpenSSL judges its form."""
    cdef octets p
    cdef size_t n, length
    if SSL_client_hello_get0_ext(ssl, EXTENSION_SERVER_NAME, &p, &n) != 1 or n < 5 or p[2] != 0:
        return None
    length = (<size_t>p[3] << 8) | p[4]
    if length == 0 or length > 255 or length > n - 5:
        return None
    return (<bytes>(<const char*>p + 5)[:length]).lower()


@cython.final
cdef class TlsServer:
    """Made by proxy/tls.py; a reload makes a new one, and sessions keep theirs."""

    def __init__(self, dict names, TlsContext default, bint strict=False):
        self.names = {name.encode(): context for name, context in names.items()}
        self.default = default
        self.strict = strict
        SSL_CTX_set_client_hello_cb(<SSL_CTX*>default.ctx, _on_hello, NULL)

    cdef TlsContext find(self, bytes name):
        """The context for a name in small letters; None: there is none for it."""
        cdef TlsContext context
        if name is None:
            return self.default
        context = self.names.get(name)
        if context is None:
            context = self.names.get(b"*" + name[name.find(b"."):] if b"." in name else b"*")
        return self.default if context is None and not self.strict else context

    def policy_of(self, bytes name):
        """What the context for a name was made with (see TlsContext.policy); None where no context serves it."""
        cdef TlsContext context = self.find(name)
        return None if context is None else context.policy

    cpdef TlsSession session(self):
        return TlsSession(self)


# ---- sessions ---------------------------------------------------------------------------------------------------

cdef char* plain = NULL
cdef Py_ssize_t plain_room = 0


cdef int _room_for(Py_ssize_t n) except -1:
    global plain, plain_room
    cdef char* grown
    if n > plain_room:
        grown = <char*>PyMem_RawRealloc(plain, n)
        if grown == NULL:
            raise MemoryError
        plain = grown
        plain_room = n
    return 0


@cython.final
@cython.freelist(64)
cdef class TlsSession:

    def __cinit__(self, TlsServer server):
        cdef BIO* bio
        self.server = server
        self.context = server.default
        self.ssl = SSL_new(<SSL_CTX*>server.default.ctx)
        if self.ssl == NULL:
            raise MemoryError
        bio = BIO_new(bio_method)
        if bio == NULL:
            raise MemoryError
        BIO_set_data(bio, &self.pipe)
        BIO_set_init(bio, 1)
        SSL_set_bio(<SSL*>self.ssl, bio, bio)
        SSL_set_ex_data(<SSL*>self.ssl, 0, <void*>self)
        SSL_set_accept_state(<SSL*>self.ssl)

    def __dealloc__(self):
        if self.ssl != NULL:
            SSL_free(<SSL*>self.ssl)

    cdef bytes receive(self, const char* data, Py_ssize_t size):
        """What arrived. Plain bytes, None where it brought none; look at `state` before you believe in more."""
        cdef Py_ssize_t total = 0
        cdef int n
        if self.state >= T_ENDED:
            return None
        self.pipe.data = data
        self.pipe.size = size
        if self.state == T_HANDSHAKE and self._shake() != 0:
            return None
        _room_for(size + OVERHEAD)
        while True:
            ERR_clear_error()
            n = SSL_read(<SSL*>self.ssl, plain + total, <int>min(plain_room - total, 1 << 30))
            if n <= 0:
                self._judge(n)
                break
            total += n
            if self.pipe.size == 0 and not SSL_has_pending(<SSL*>self.ssl):
                break
            if plain_room - total < RECORD:
                _room_for(plain_room + RECORD)
        self.pipe.size = 0
        return PyBytes_FromStringAndSize(plain, total) if total else None

    cdef int _shake(self) except -1:
        """Go on with the handshake; 0 once it is complete."""
        cdef int outcome
        ERR_clear_error()
        outcome = SSL_do_handshake(<SSL*>self.ssl)
        if outcome == 1:
            self.state = T_OPEN
            self.ticket_due = self.context.gives_tickets and SSL_version(<SSL*>self.ssl) == TLS_1_3
            return 0
        self._judge(outcome)
        return 1

    cdef int _judge(self, int outcome) except -1:
        """What it means that OpenSSL did not do what it was asked for."""
        cdef int error = SSL_get_error(<SSL*>self.ssl, outcome)
        cdef long verdict
        if error == ERROR_ZERO_RETURN:
            self.state = T_ENDED
        elif error != ERROR_WANT_READ:
            verdict = SSL_get_verify_result(<SSL*>self.ssl)
            self.state = T_BROKEN
            said = _reason()
            self.reason = self.reason or said
            if verdict and self.reason == "certificate verify failed":
                self.reason += ": " + (<bytes>X509_verify_cert_error_string(verdict)).decode(errors="replace")
        return 0

    cdef int write(self, const char* p, Py_ssize_t n) except -1:
        """Encrypt; the records lie in the output.

        A ticket of TLS 1.3 goes out with the first bytes, in the same segment: one to who never asks is of no use.
        """
        cdef int piece
        if self.ticket_due:
            self.ticket_due = False
            SSL_new_session_ticket(<SSL*>self.ssl)
        while n > 0 and (self.state == T_OPEN or self.state == T_ENDED):
            piece = <int>min(n, 1 << 30)
            ERR_clear_error()
            piece = SSL_write(<SSL*>self.ssl, p, piece)
            if piece <= 0:
                self.state = T_BROKEN
                self.reason = _reason()
                return 0
            p += piece
            n -= piece
        return 0

    cdef int end(self) except -1:
        """Say that nothing more follows (close_notify)."""
        if self.state == T_OPEN or self.state == T_ENDED:
            ERR_clear_error()
            SSL_shutdown(<SSL*>self.ssl)
            ERR_clear_error()
        return 0

    @property
    def version(self):
        """0x0303 for TLS 1.2, 0x0304 for 1.3."""
        return SSL_version(<SSL*>self.ssl)

    @property
    def resumed(self):
        return SSL_session_reused(<SSL*>self.ssl) == 1

    @property
    def cipher(self):
        cdef const void* cipher = SSL_get_current_cipher(<SSL*>self.ssl)
        return None if cipher == NULL else (<bytes>SSL_CIPHER_get_name(cipher)).decode()

    @property
    def client_certificate(self):
        """What the client has proved to own, as DER; None: nothing."""
        cdef X509* found = SSL_get1_peer_certificate(<SSL*>self.ssl)
        cdef unsigned char* p
        cdef int n
        if found == NULL:
            return None
        n = i2d_X509(found, NULL)
        der = PyBytes_FromStringAndSize(NULL, n)
        p = <unsigned char*>PyBytes_AS_STRING(der)
        i2d_X509(found, &p)
        X509_free(found)
        return der

    # -- for tests and peers without a socket: the same verbs from Python -------------------------------------------

    def feed(self, bytes data):
        """Plain bytes that `data` brings, and what is to be sent now."""
        found = self.receive(PyBytes_AS_STRING(data), len(data))
        return found or b"", _taken()

    def seal(self, bytes data):
        """The records that carry `data`."""
        self.write(PyBytes_AS_STRING(data), len(data))
        return _taken()

    def finish(self):
        """The records that end the session."""
        self.end()
        return _taken()


cdef bytes _taken():
    data = PyBytes_FromStringAndSize(output.data, output.size)
    tls_sent()
    return data
