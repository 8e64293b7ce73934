/* The part of OpenSSL 3 that tls.pyx uses, found at run time.
 *
 * The library is the one the interpreter's own ssl module is linked to, so there is one copy in the process, one that
 * the system keeps up to date, and building needs no headers. Types are opaque here; numbers are part of its ABI.
 */
#ifndef KAIROS_OPENSSL_H
#define KAIROS_OPENSSL_H

#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

typedef struct ssl_st SSL;
typedef struct ssl_ctx_st SSL_CTX;
typedef struct bio_st BIO;
typedef struct bio_method_st BIO_METHOD;
typedef struct x509_st X509;
typedef struct evp_cipher_st EVP_CIPHER;
typedef struct evp_cipher_ctx_st EVP_CIPHER_CTX;
typedef struct evp_mac_ctx_st EVP_MAC_CTX;
typedef struct {
    const char *key;
    unsigned int data_type;
    void *data;
    size_t data_size;
    size_t return_size;
} OSSL_PARAM;

#define KAIROS_OPENSSL(F) \
    F(unsigned long, OpenSSL_version_num, (void)) \
    F(const char *, OpenSSL_version, (int)) \
    F(void *, TLS_server_method, (void)) \
    F(SSL_CTX *, SSL_CTX_new, (void *)) \
    F(void, SSL_CTX_free, (SSL_CTX *)) \
    F(long, SSL_CTX_ctrl, (SSL_CTX *, int, long, void *)) \
    F(long, SSL_CTX_callback_ctrl, (SSL_CTX *, int, void (*)(void))) \
    F(uint64_t, SSL_CTX_set_options, (SSL_CTX *, uint64_t)) \
    F(int, SSL_CTX_set_cipher_list, (SSL_CTX *, const char *)) \
    F(int, SSL_CTX_set_ciphersuites, (SSL_CTX *, const char *)) \
    F(int, SSL_CTX_use_certificate_chain_file, (SSL_CTX *, const char *)) \
    F(int, SSL_CTX_use_PrivateKey_file, (SSL_CTX *, const char *, int)) \
    F(int, SSL_CTX_check_private_key, (SSL_CTX *)) \
    F(X509 *, SSL_CTX_get0_certificate, (SSL_CTX *)) \
    F(void, SSL_CTX_set_default_passwd_cb, (SSL_CTX *, int (*)(char *, int, int, void *))) \
    F(void, SSL_CTX_set_verify, (SSL_CTX *, int, void *)) \
    F(void, SSL_CTX_set_verify_depth, (SSL_CTX *, int)) \
    F(int, SSL_CTX_load_verify_locations, (SSL_CTX *, const char *, const char *)) \
    F(void *, SSL_load_client_CA_file, (const char *)) \
    F(void, SSL_CTX_set_client_CA_list, (SSL_CTX *, void *)) \
    F(void *, SSL_CTX_get_cert_store, (SSL_CTX *)) \
    F(void *, X509_LOOKUP_file, (void)) \
    F(void *, X509_STORE_add_lookup, (void *, void *)) \
    F(int, X509_load_crl_file, (void *, const char *, int)) \
    F(int, X509_STORE_set_flags, (void *, unsigned long)) \
    F(int, SSL_CTX_set_session_id_context, (SSL_CTX *, const unsigned char *, unsigned int)) \
    F(long, SSL_CTX_set_timeout, (SSL_CTX *, long)) \
    F(int, SSL_CTX_set_num_tickets, (SSL_CTX *, size_t)) \
    F(int, SSL_CTX_set_tlsext_ticket_key_evp_cb, \
      (SSL_CTX *, int (*)(SSL *, unsigned char *, unsigned char *, EVP_CIPHER_CTX *, EVP_MAC_CTX *, int))) \
    F(void, SSL_CTX_set_client_hello_cb, (SSL_CTX *, int (*)(SSL *, int *, void *), void *)) \
    F(void, SSL_CTX_set_alpn_select_cb, \
      (SSL_CTX *, \
       int (*)(SSL *, const unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *), void *)) \
    F(int, SSL_client_hello_get0_ext, (SSL *, unsigned int, const unsigned char **, size_t *)) \
    F(SSL *, SSL_new, (SSL_CTX *)) \
    F(void, SSL_free, (SSL *)) \
    F(int, SSL_set_ex_data, (SSL *, int, void *)) \
    F(void *, SSL_get_ex_data, (const SSL *, int)) \
    F(void, SSL_set_bio, (SSL *, BIO *, BIO *)) \
    F(void, SSL_set_accept_state, (SSL *)) \
    F(SSL_CTX *, SSL_set_SSL_CTX, (SSL *, SSL_CTX *)) \
    F(void, SSL_set_verify, (SSL *, int, void *)) \
    F(void, SSL_set_verify_depth, (SSL *, int)) \
    F(int, SSL_do_handshake, (SSL *)) \
    F(int, SSL_new_session_ticket, (SSL *)) \
    F(int, SSL_read, (SSL *, void *, int)) \
    F(int, SSL_write, (SSL *, const void *, int)) \
    F(int, SSL_has_pending, (const SSL *)) \
    F(int, SSL_shutdown, (SSL *)) \
    F(int, SSL_get_error, (const SSL *, int)) \
    F(int, SSL_version, (const SSL *)) \
    F(int, SSL_session_reused, (const SSL *)) \
    F(const void *, SSL_get_current_cipher, (const SSL *)) \
    F(const char *, SSL_CIPHER_get_name, (const void *)) \
    F(long, SSL_get_verify_result, (const SSL *)) \
    F(long, SSL_ctrl, (SSL *, int, long, void *)) \
    F(X509 *, SSL_get1_peer_certificate, (const SSL *)) \
    F(X509 *, SSL_get_certificate, (const SSL *)) \
    F(int, i2d_X509, (X509 *, unsigned char **)) \
    F(void, X509_free, (X509 *)) \
    F(const char *, X509_verify_cert_error_string, (long)) \
    F(BIO_METHOD *, BIO_meth_new, (int, const char *)) \
    F(int, BIO_meth_set_read, (BIO_METHOD *, int (*)(BIO *, char *, int))) \
    F(int, BIO_meth_set_write, (BIO_METHOD *, int (*)(BIO *, const char *, int))) \
    F(int, BIO_meth_set_ctrl, (BIO_METHOD *, long (*)(BIO *, int, long, void *))) \
    F(BIO *, BIO_new, (const BIO_METHOD *)) \
    F(void, BIO_set_data, (BIO *, void *)) \
    F(void *, BIO_get_data, (BIO *)) \
    F(void, BIO_set_init, (BIO *, int)) \
    F(void, BIO_set_flags, (BIO *, int)) \
    F(void, BIO_clear_flags, (BIO *, int)) \
    F(unsigned long, ERR_peek_error, (void)) \
    F(unsigned long, ERR_peek_last_error, (void)) \
    F(const char *, ERR_reason_error_string, (unsigned long)) \
    F(void, ERR_clear_error, (void)) \
    F(int, RAND_bytes, (unsigned char *, int)) \
    F(EVP_CIPHER *, EVP_CIPHER_fetch, (void *, const char *, const char *)) \
    F(int, EVP_EncryptInit_ex, (EVP_CIPHER_CTX *, const EVP_CIPHER *, void *, const unsigned char *, \
                                const unsigned char *)) \
    F(int, EVP_DecryptInit_ex, (EVP_CIPHER_CTX *, const EVP_CIPHER *, void *, const unsigned char *, \
                                const unsigned char *)) \
    F(int, EVP_MAC_CTX_set_params, (EVP_MAC_CTX *, const OSSL_PARAM *)) \
    F(OSSL_PARAM, OSSL_PARAM_construct_octet_string, (const char *, void *, size_t)) \
    F(OSSL_PARAM, OSSL_PARAM_construct_utf8_string, (const char *, char *, size_t)) \
    F(OSSL_PARAM, OSSL_PARAM_construct_end, (void)) \
    F(void *, CRYPTO_malloc, (size_t, const char *, int)) \
    F(void *, d2i_OCSP_RESPONSE, (void **, const unsigned char **, long)) \
    F(void, OCSP_RESPONSE_free, (void *)) \
    F(int, OCSP_response_status, (void *)) \
    F(void *, OCSP_response_get1_basic, (void *)) \
    F(void, OCSP_BASICRESP_free, (void *)) \
    F(void *, OCSP_resp_get0, (void *, int)) \
    F(int, OCSP_single_get0_status, (void *, int *, void **, void **, void **)) \
    F(int, ASN1_TIME_to_tm, (const void *, struct tm *))

#define KAIROS_OPENSSL_MEMBER(type, name, arguments) type(*name) arguments;
static struct {
    KAIROS_OPENSSL(KAIROS_OPENSSL_MEMBER)
} ossl;

/* Fill the table. The name that the library lacks, or NULL when all are there. */
static const char *kairos_openssl_load(void *library) {
#define KAIROS_OPENSSL_FIND(type, name, arguments) \
    if (!(*(void **)&ossl.name = dlsym(library, #name))) return #name;
    KAIROS_OPENSSL(KAIROS_OPENSSL_FIND)
    return NULL;
}

#endif
