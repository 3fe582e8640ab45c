"""A small business application on top of holdfast_client, meant to be copied.

Its rules: write an order down before creating it; retry under the same number; believe only verified webhooks, each
once, in the transaction that fulfils; ignore what is older than what you know; ask when you have heard nothing.

To be copied: checkout, watcher, counter, ledger, bookkeeping. The world around it is played: customers, browser.
"""
