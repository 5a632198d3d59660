# The test cluster's own targets; the top Makefile includes this.
.PHONY: cluster cluster-shell cluster-down
cluster: ## start a test cluster in the background
	go run ./tests/cluster/cmd/cluster up
cluster-shell: ## root shell on a node of it: make cluster-shell NODE=login
	@go run ./tests/cluster/cmd/cluster shell $(or $(NODE),login)
cluster-down: ## end it
	go run ./tests/cluster/cmd/cluster down
