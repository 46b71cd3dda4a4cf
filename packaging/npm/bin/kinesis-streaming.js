#!/usr/bin/env node
'use strict';

require('../lib/program').run(process.argv.slice(2));
