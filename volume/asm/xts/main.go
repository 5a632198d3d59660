// Command xts writes block_amd64.s of package xts and its declarations:
//
//	go generate ./volume/xts        (from the top of the repository)
//
// All functions take expanded keys, so none branches or loads by a secret.
package main

import . "github.com/mmcloughlin/avo/build"

func main() {
	ConstraintExpr("!purego")
	subWord()
	invMixColumns()
	aesNI("encryptAESNI", true)
	aesNI("decryptAESNI", false)
	vaes("encryptVAES", true)
	vaes("decryptVAES", false)
	Generate()
}
