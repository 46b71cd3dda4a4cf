#!/usr/bin/env node
'use strict';

require('../lib/bootstrap').main(process.argv.slice(2));
