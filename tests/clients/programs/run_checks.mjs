// Runs the checks of a client: `node run_checks.mjs CLIENT URL`.
//
// The last line of the output is a JSON object with the stack of each check that fails,
// and null for the others.

const [client, url] = process.argv.slice(2);
const outcomes = {};
for (const [name, check] of Object.entries(await import(`./${client}.mjs`))) {
  if (name.startsWith("check_")) {
    try {
      await check(url);
      outcomes[name] = null;
    } catch (error) {
      outcomes[name] = error.stack;
    }
  }
}
console.log(JSON.stringify(outcomes));
