// A driver's end of the dialogue (`../driver.py`), and where the npm peers are found.
'use strict';

const { createRequire } = require('node:module');
const readline = require('node:readline');

const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

// Packages stand where `environments.py` put them, not beside this file.
exports.peer = createRequire(process.env.PEERS_HOME + '/');

exports.account = async () => JSON.parse((await lines.next()).value);

// Do what is asked until nobody asks any more.
exports.obey = async (offered) => {
  const verbs = { ...offered, verbs: () => Object.keys(offered) };
  for await (const line of { [Symbol.asyncIterator]: () => lines }) {
    const { do: verb, ...about } = JSON.parse(line);
    let said;
    try {
      said = { answer: (await verbs[verb](about)) ?? null };
    } catch (error) {
      console.error(String(error.stack).slice(0, 1000));
      said = { raised: `${error.name}: ${error.message}` };
    }
    process.stdout.write(JSON.stringify(said) + '\n');
  }
};

process.on('uncaughtException', (error) => {
  console.error(String(error.stack).slice(0, 1000));
  process.exit(1);
});
