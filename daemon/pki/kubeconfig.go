package pki

import (
	"fmt"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Credential is how a kubeconfig's user proves who it is: a token, or a certificate with its key, both PEM.
type Credential struct {
	Token           string
	CertPEM, KeyPEM []byte
}

// Kubeconfig writes a configuration for kubectl with everything embedded. server is a URL, https://host:port.
func Kubeconfig(cluster, server string, caPEM []byte, user string, cred Credential) ([]byte, error) {
	config := clientcmdapi.NewConfig()
	config.Clusters[cluster] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: caPEM}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{
		Token: cred.Token, ClientCertificateData: cred.CertPEM, ClientKeyData: cred.KeyPEM,
	}
	config.Contexts[cluster] = &clientcmdapi.Context{Cluster: cluster, AuthInfo: user}
	config.CurrentContext = cluster
	data, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("cannot write a kubeconfig for %s: %w", server, err)
	}
	return data, nil
}
